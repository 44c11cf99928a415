"""Weight files become generators: one reader per format, the prior, latents."""
