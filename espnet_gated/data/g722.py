"""ITU-T G.722 decoder (64 kbit/s, mode 1), written from the recommendation.

An octet holds two samples of 16 kHz speech: six bits of ADPCM for the band below 4 kHz and two for
the band above. Each band has a quantizer whose step follows the signal and a predictor of two poles
and six zeros; a 24-tap quadrature mirror filter joins the bands. All arithmetic is that of 16-bit
integers, so the output is exact to the bit. Names in capitals are the recommendation's.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

SAMPLE_RATE = 16000
SAMPLES_PER_OCTET = 2

Ints = NDArray[np.int64]

# Inverse quantizers: six bits for the low band's output, four for its predictor, two for the high
# band. Codes run from the largest negative level to the smallest, then the same positive.
_LEVELS_6 = np.array(
    [24808, 21904, 19008, 16704, 14984, 13512, 12280, 11192, 10232, 9360, 8576, 7856, 7192, 6576]
    + [6000, 5456, 4944, 4464, 4008, 3576, 3168, 2776, 2400, 2032, 1688, 1360, 1040, 728]
)
_LEVELS_4 = np.array([20456, 12896, 8968, 6288, 4240, 2584, 1200])
QM6 = np.concatenate([[-136] * 4, -_LEVELS_6, _LEVELS_6, [432, 136, -432, -136]]).astype(np.int64)
QM4 = np.concatenate([[0], -_LEVELS_4, _LEVELS_4, [0]]).astype(np.int64)
QM2 = np.array([-7408, -1616, 7408, 1616], dtype=np.int64)

# What each predictor code adds to the logarithm of the step: WL[RL42] and WH[IH2].
_WL = [3042, 1198, 538, 334, 172, 58, -30]
WL = np.array([-60, *_WL, *_WL, -60], dtype=np.int64)
WH = np.array([798, -214, 798, -214], dtype=np.int64)
MAX_LOG_STEP_LOW, MAX_LOG_STEP_HIGH = 18432, 22528
ILB = np.rint(2048 * 2 ** (np.arange(32) / 32)).astype(np.int64)

_QMF_HALF = [3, -11, -11, 53, 12, -156, 32, 362, -210, -805, 951, 3876]
QMF = np.array(_QMF_HALF + _QMF_HALF[::-1], dtype=np.int64)

# A band's state, one row: where each part lies.
_POLES, _ZEROS, _DIFFS = slice(0, 2), slice(2, 8), slice(8, 15)
_PARTIALS, _REBUILT, _ZERO_SHARE, _STATE_SIZE = slice(15, 18), slice(18, 20), 20, 21


def decode(octets: bytes) -> NDArray[np.int16]:
    """Decode raw G.722 octets (no header).

    Returns:
        Samples at 16 kHz, shape (2 * len(octets),).
    """
    codes = np.frombuffer(octets, dtype=np.uint8).astype(np.int64)
    samples: NDArray[np.int16] = _decode(codes)
    return samples


@njit
def _saturate(value: int) -> int:
    return max(-32768, min(32767, value))


@njit
def _same_sign(a: int, b: int) -> bool:
    return (a < 0) == (b < 0)


@njit
def _step_size(log_step: int, bias: int) -> int:
    """The linear step of a logarithmic one; ``bias`` is 8 in the low band, 10 in the high."""
    mantissa = ILB[(log_step >> 6) & 31]
    shift = bias - (log_step >> 11)
    step: int = mantissa << -shift if shift < 0 else mantissa >> shift
    return step << 2


@njit
def _adapt_poles(poles: Ints, partials: Ints) -> None:
    """Move the pole coefficients by the signs of the last three partial signals."""
    same1 = _same_sign(partials[0], partials[1])
    same2 = _same_sign(partials[0], partials[2])
    lead = _saturate(poles[0] * 4)
    second = (min(-lead if same1 else lead, 32767) >> 7) + (128 if same2 else -128)
    second = max(-12288, min(12288, second + (poles[1] * 32512 >> 15)))
    first = _saturate((192 if same1 else -192) + (poles[0] * 32640 >> 15))
    limit = 15360 - second
    poles[0] = max(-limit, min(limit, first))
    poles[1] = second


@njit
def _adapt_zeros(zeros: Ints, diffs: Ints) -> None:
    """Move the zero coefficients by the signs of the last seven differences."""
    gain = 0 if diffs[0] == 0 else 128
    for i in range(6):
        move = gain if _same_sign(diffs[i + 1], diffs[0]) else -gain
        zeros[i] = _saturate(move + (zeros[i] * 32640 >> 15))


@njit
def _pole_share(poles: Ints, rebuilt: Ints) -> int:
    first = poles[0] * _saturate(2 * rebuilt[0]) >> 15
    second = poles[1] * _saturate(2 * rebuilt[1]) >> 15
    return _saturate(first + second)


@njit
def _predict(state: Ints, guess: int, difference: int) -> int:
    """Take in one sample of a band: adapt its predictor and guess the next sample.

    Args:
        state: (21,) poles, zeros, differences, partial signals, rebuilt samples, zeros' share.
        guess: what was guessed for this sample.
        difference: what its code adds to the guess.
    """
    poles, zeros, diffs = state[_POLES], state[_ZEROS], state[_DIFFS]
    partials, rebuilt = state[_PARTIALS], state[_REBUILT]
    diffs[0] = difference
    partials[2], partials[1] = partials[1], partials[0]
    partials[0] = _saturate(state[_ZERO_SHARE] + difference)
    rebuilt[1], rebuilt[0] = rebuilt[0], _saturate(guess + difference)
    _adapt_poles(poles, partials)
    _adapt_zeros(zeros, diffs)
    share = 0
    for i in range(6, 0, -1):
        diffs[i] = diffs[i - 1]
        share += zeros[i - 1] * _saturate(2 * diffs[i]) >> 15
    state[_ZERO_SHARE] = _saturate(share)
    return _saturate(_pole_share(poles, rebuilt) + state[_ZERO_SHARE])


@njit(nogil=True)
def _decode(codes: Ints) -> NDArray[np.int16]:
    low, high = np.zeros(_STATE_SIZE, dtype=np.int64), np.zeros(_STATE_SIZE, dtype=np.int64)
    step_low, step_high, log_low, log_high = 32, 8, 0, 0
    guess_low, guess_high = 0, 0
    line = np.zeros(len(QMF), dtype=np.int64)
    samples = np.zeros(SAMPLES_PER_OCTET * len(codes), dtype=np.int16)
    for n in range(len(codes)):
        code_low, code_high = codes[n] & 63, codes[n] >> 6
        diff_low = step_low * QM4[code_low >> 2] >> 15
        diff_high = step_high * QM2[code_high] >> 15
        out_low = max(-16384, min(16383, guess_low + (step_low * QM6[code_low] >> 15)))
        out_high = max(-16384, min(16383, guess_high + diff_high))
        log_low = max(0, min(MAX_LOG_STEP_LOW, (log_low * 127 >> 7) + WL[code_low >> 2]))
        log_high = max(0, min(MAX_LOG_STEP_HIGH, (log_high * 127 >> 7) + WH[code_high]))
        step_low, step_high = _step_size(log_low, 8), _step_size(log_high, 10)
        guess_low = _predict(low, guess_low, diff_low)
        guess_high = _predict(high, guess_high, diff_high)
        line[:-2] = line[2:].copy()
        line[-2], line[-1] = out_low + out_high, out_low - out_high
        samples[2 * n] = _saturate(np.sum(line[1::2] * QMF[1::2]) >> 11)
        samples[2 * n + 1] = _saturate(np.sum(line[::2] * QMF[::2]) >> 11)
    return samples
