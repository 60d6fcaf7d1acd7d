"""Log-mel features of audio."""

import torch
from torch import Tensor

from dltrain.errors import ConfigError, format_error

# Added to the power, so that the logarithm of digital silence is finite; about the power of 16-bit rounding noise.
GUARD = 2.0**-24


def mel_filters(bands: int, bins: int, rate: int) -> Tensor:
    """Return triangular mel filters: the weight of each spectrum bin in each band, float64 (bins, bands).

    The centers of the bands are evenly spaced on the mel scale, ``2595 log10(1 + f / 700)``, between 0 and ``rate / 2``
    Hz. A filter is 1 at the center of its band and falls linearly to 0 at the centers of the neighboring bands; the
    first filter starts at 0 Hz, the last one ends at ``rate / 2`` Hz.

    Args:
        bins: Number of bins of the spectrum, evenly spaced from 0 to ``rate / 2`` Hz.

    Source: O'Shaughnessy 1987 (the scale); Davis and Mermelstein 1980 (triangular filters), as in HTK.
    """
    highest = 2595 * torch.log10(torch.tensor(1 + rate / 2 / 700, dtype=torch.float64))
    edges = 700 * (10 ** (torch.linspace(0, 1, bands + 2, dtype=torch.float64) * highest / 2595) - 1)
    frequencies = torch.linspace(0, rate / 2, bins, dtype=torch.float64)[:, None]
    low, center, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (frequencies - low) / (center - low), (high - frequencies) / (high - center)
    return torch.minimum(rising, falling).clamp(min=0)


class LogMel:
    """Logarithm of the power in mel bands, one frame every ``hop_ms`` milliseconds.

    Frames are centered, with zeros before and after the recording, and weighted by a Hann window.

    Args:
        rate: Samples per second.
        bands: Number of mel bands, at least 1.
        window_ms, hop_ms: Length of a frame, and distance between frames, in milliseconds.

    Raises:
        ConfigError: A band is so narrow that it contains no bin of the spectrum.

    Source: Stevens, Volkmann and Newman 1937 (mel scale); Davis and Mermelstein 1980 (features of speech).
    """

    def __init__(self, rate: int, bands: int, window_ms: float, hop_ms: float) -> None:
        self.rate, self.hop = rate, max(1, round(rate * hop_ms / 1000))
        self.window = torch.hann_window(max(2, round(rate * window_ms / 1000)))
        self.size = 1 << (len(self.window) - 1).bit_length()  # size of the Fourier transform: the next power of two
        filters = mel_filters(bands, self.size // 2 + 1, rate)
        if bool((filters.sum(0) == 0).any()):
            expected = f"fewer bands for a window of {window_ms:g} ms at {rate:,} Hz"
            raise ConfigError(format_error("data.mels", expected, bands, "Reduce it, or set a larger data.window_ms."))
        self.filters = filters.float()

    def __call__(self, samples: Tensor) -> Tensor:
        """Return the features of a recording: float32 (samples,) -> (1 + samples // hop, bands)."""
        spectrum = torch.stft(
            samples,
            self.size,
            self.hop,
            len(self.window),
            self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        return (power.T @ self.filters + GUARD).log()
