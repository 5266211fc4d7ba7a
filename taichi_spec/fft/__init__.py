"""The fast Fourier transform: butterflies, plans, and the engines built on them."""
