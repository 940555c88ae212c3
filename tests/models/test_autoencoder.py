import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geodiff.errors import ConfigError, InputError
from geodiff.models.autoencoder import (
    KLAutoencoder,
    TinyAutoencoder,
    WaveletAutoencoder,
    decode_clip,
    encode_clip,
    packet_matrix,
)


@settings(deadline=None, max_examples=20)
@given(
    levels=st.integers(1, 3),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    whitening=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_wavelet_is_lossless_for_any_size(levels: int, rows: int, columns: int, whitening: float) -> None:
    factor = 2**levels
    autoencoder = WaveletAutoencoder(factor, whitening)
    images = torch.rand(2, 3, rows * factor, columns * factor, generator=torch.Generator().manual_seed(rows)) * 2 - 1
    latents = autoencoder.encode(images)
    assert latents.shape == (2, autoencoder.channels, rows, columns)
    assert autoencoder.channels == 3 * factor**2
    torch.testing.assert_close(autoencoder.decode(latents), images, atol=1e-5, rtol=0)


def test_wavelet_is_near_orthonormal_and_smooth() -> None:
    singular = torch.linalg.svdvals(packet_matrix(256, 3))
    assert singular.max() < 1.5
    assert singular.min() > 0.5
    synthesis = packet_matrix(256, 3, inverse=True)
    low = synthesis[:, 16]
    assert (low.diff().abs().max() / low.abs().max()) < 0.35, "the lowest basis function jumps"
    assert (low.abs() > 1e-3 * low.abs().max()).sum() > 24, "basis functions must overlap their neighbours"


def test_wavelet_bands_rise_in_frequency() -> None:
    analysis = packet_matrix(64, 3)
    peaks = [int(torch.fft.rfft(analysis[8 * band + 4]).abs().argmax()) for band in range(8)]
    assert peaks == sorted(peaks)


def test_wavelet_low_band_first_and_constant_image() -> None:
    autoencoder = WaveletAutoencoder(8, 0.0)
    latents = autoencoder.encode(torch.ones(1, 3, 64, 64))
    assert latents[:, :3].abs().min() > 1
    assert latents[:, 3:].abs().max() < 1e-4


def test_pixel_weights_turn_latent_errors_into_pixel_errors() -> None:
    autoencoder = WaveletAutoencoder(8, 1.0)
    error = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.1
    weights = autoencoder.gains.flatten() ** -2
    latent = (autoencoder.encode(error).square() * weights[:, None, None]).mean()
    assert latent == pytest.approx(float(error.square().mean()), rel=0.15)
    assert autoencoder.pixel_weights().mean() == pytest.approx(1.0)


def test_wavelet_stays_exact_under_autocast() -> None:
    autoencoder = WaveletAutoencoder(8)
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(autoencoder.decode(autoencoder.encode(images)), images, atol=1e-5, rtol=0)


def test_wavelet_rejects_bad_sizes() -> None:
    with pytest.raises(ConfigError, match="power of two"):
        WaveletAutoencoder(6)
    with pytest.raises(InputError, match="multiples of 8"):
        WaveletAutoencoder(8).encode(torch.zeros(1, 3, 60, 64))


def test_learned_autoencoders_share_the_interface() -> None:
    small = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    kl = KLAutoencoder(
        small | {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    )
    tiny = TinyAutoencoder(
        {
            "encoder_block_out_channels": (8, 8),
            "decoder_block_out_channels": (8, 8),
            "num_encoder_blocks": (1, 1),
            "num_decoder_blocks": (1, 1),
        }
    )
    for autoencoder in (kl, tiny):
        latents = autoencoder.encode(torch.zeros(1, 3, 16, 16))
        assert latents.shape == (1, autoencoder.channels, 16 // autoencoder.factor, 16 // autoencoder.factor)
        assert autoencoder.decode(latents).shape == (1, 3, 16, 16)


def test_clips_keep_their_leading_axes() -> None:
    autoencoder = WaveletAutoencoder(4)
    frames = torch.rand(2, 2, 5, 3, 16, 8)
    latents = encode_clip(autoencoder, frames)
    assert latents.shape == (2, 2, 48, 5, 4, 2)
    torch.testing.assert_close(decode_clip(autoencoder, latents), frames, atol=1e-5, rtol=0)
