"""The networks: autoencoder, reference net, expression encoder, joint image-normal UNet, and the sampling loop."""
