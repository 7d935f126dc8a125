"""Neural engine: networks over Fourier coordinates, with latents by amortised or by closed-form inference."""
