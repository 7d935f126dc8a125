"""The variational autoencoder with a coordinate network as its decoder."""
