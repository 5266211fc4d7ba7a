"""The fast Fourier transform, and the engines built on it: loss and both gradients in one pass.

To read first: `plan` and `butterflies`, which all engines have in common; then `fused`, what an engine is asked for; then
one engine from its first file on, which says what the others of its name do.

    lanes     on the CPU: frames side by side as the lanes of a vector
    blocks    on a GPU: powers of two up to 4,096, a frame in the registers of a team of threads
    frames    on a GPU: other sizes, as long as a frame fits a block's shared memory
    matrix    on a GPU: longer frames, as matrices in memory, a chunk of them at a time
    memory    anywhere: pass by pass through memory, for what is left; `taichi_spec.staged` does the rest of the loss

What is done between a frame's two transforms is the same for all. Sums over whole bins: `pairs` on GPUs. More than that, such
as bands or `Transport`: `stages` says what, `compare_stages` does it on GPUs. How a frame lies in shared memory: `rows`, and
its transform there: `lines`. How teams share out frames: `runs`. How they write: `together`.
"""
