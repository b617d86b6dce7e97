"""Audio of any rate and format is the same sound afterwards, and what cannot be read is named."""

import logging
import subprocess

import numpy as np
import pytest
import soundfile

from espnet_gated.data import audio, ffmpeg
from espnet_gated.data.audio import AudioError, AudioRange, audio_info, decode_audio, read_audio, read_spans

FS = 16000
SECONDS = 1.5
RATES = (8000, 16000, 22050, 44100, 48000)
LOSSLESS = (("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_16"))
LOSSY = (("mp3", "MPEG_LAYER_III", 16000), ("mp3", "MPEG_LAYER_III", 44100))
LOSSY += (("ogg", "VORBIS", 22050), ("ogg", "OPUS", 8000), ("ogg", "OPUS", 48000))

needs_ffmpeg = pytest.mark.skipif(ffmpeg.find_program() is None, reason="no program ffmpeg")


def sound(rate, channels=1):
    """The same sound at any rate, within the telephone band: (T,) or (T, channels) whose mean it is."""
    t = np.arange(round(SECONDS * rate)) / rate
    swell = np.sin(np.pi * t / SECONDS)
    mono = 0.2 * swell * sum(np.sin(2 * np.pi * (f * t + 40 * np.sin(2 * np.pi * t))) for f in (320, 900, 2100))
    if channels == 1:
        return mono
    return np.stack([1.5 * mono, 0.5 * mono], axis=1)


def similarity(got, wanted, slack=1):
    """Highest correlation over shifts of up to ``slack`` samples."""
    size = min(len(got), len(wanted)) - 2 * slack
    middle = wanted[slack : slack + size]
    return max(
        np.corrcoef(got[slack + shift : slack + shift + size], middle)[0, 1] for shift in range(-slack, slack + 1)
    )


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("suffix", "subtype"), LOSSLESS)
@pytest.mark.parametrize("rate", RATES)
def test_every_rate_is_the_same_sound(tmp_path, rate, suffix, subtype, channels):
    path = tmp_path / f"sound.{suffix}"
    soundfile.write(path, sound(rate, channels), rate, subtype=subtype)
    info = audio_info(path)
    assert (info.rate, info.channels, info.seconds) == (rate, channels, pytest.approx(SECONDS, abs=1e-4))
    samples = read_audio(path, FS)
    assert samples.dtype == np.float32 and samples.ndim == 1
    assert abs(len(samples) - SECONDS * FS) <= 1
    np.testing.assert_allclose(samples[100 : FS - 100], sound(FS)[100 : FS - 100], atol=2e-3)


@pytest.mark.parametrize(("suffix", "subtype", "rate"), LOSSY)
def test_lossy_formats_are_nearly_the_same_sound(tmp_path, suffix, subtype, rate):
    path = tmp_path / f"sound.{suffix}"
    soundfile.write(path, sound(rate), rate, format=suffix.upper(), subtype=subtype)
    samples = read_audio(path, FS)
    assert abs(len(samples) - SECONDS * FS) < 0.1 * FS
    assert similarity(samples, sound(FS), slack=40) > 0.98


@needs_ffmpeg
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("g722", ["-ar", "16000", "-f", "g722"]),
        ("m4a", ["-c:a", "aac", "-b:a", "128k"]),
        ("opus", ["-c:a", "libopus"]),
        ("webm", ["-c:a", "libopus"]),
    ],
)
def test_other_formats(tmp_path, suffix, options):
    path, wav = tmp_path / f"sound.{suffix}", tmp_path / "sound.wav"
    soundfile.write(wav, sound(48000, channels=2), 48000)
    channels = ["-ac", "1"] if suffix == "g722" else []
    command = [ffmpeg.find_program(), "-v", "error", "-i", wav, *channels, *options, path]
    subprocess.run(command, check=True)
    info = audio_info(path)
    assert info.seconds == pytest.approx(SECONDS, abs=0.1)
    assert (info.rate, info.channels) == ((16000, 1) if suffix == "g722" else (48000, 2))
    samples = read_audio(path, FS)
    assert abs(len(samples) - SECONDS * FS) < 0.1 * FS
    assert similarity(samples, sound(FS), slack=40) > 0.98


@needs_ffmpeg
@pytest.mark.parametrize(
    ("suffix", "channels", "rate"), [("m4a", 1, 44100), ("m4a", 6, 48000), ("m4a", 8, 22050), ("mka", 3, 48000)]
)
def test_any_number_of_channels(tmp_path, suffix, channels, rate):
    path, wav = tmp_path / f"sound.{suffix}", tmp_path / "sound.wav"
    soundfile.write(wav, np.stack([sound(rate)] * channels, axis=1), rate)
    subprocess.run([ffmpeg.find_program(), "-v", "error", "-i", wav, path], check=True)
    info = audio_info(path)
    assert (info.rate, info.channels, info.seconds) == (rate, channels, pytest.approx(SECONDS, abs=0.1))
    assert similarity(read_audio(path, FS), sound(FS), slack=40) > 0.98


@pytest.mark.parametrize("name", ["prompt.g722", "PROMPT.G722"])
def test_g722_needs_no_program(tmp_path, monkeypatch, name):
    monkeypatch.setattr(ffmpeg, "_program", lambda path: pytest.fail("not needed"))
    path = tmp_path / name
    path.write_bytes(bytes(range(256)) * 4)
    assert audio_info(path) == audio.AudioInfo(16000, 1, 2048)
    assert len(read_audio(path, 16000)) == 2048
    assert len(read_audio(path, 8000)) == 1024


@pytest.mark.parametrize("suffix", ["wav", "mp3"])
def test_parts_of_a_file_are_parts_of_the_whole(tmp_path, suffix):
    path = tmp_path / f"sound.{suffix}"
    soundfile.write(path, sound(16000), 16000)
    whole = read_audio(path, FS)
    spans = [(0.5, 1.0), (0.0, 0.25), (1.25, None), (1.4, 99.0), (7.0, 8.0)]
    parts = list(read_spans(path, spans, FS))
    for (start, end), part in zip(spans, parts, strict=True):
        expected = whole[round(start * FS) : None if end is None else round(end * FS)]
        assert len(part) == len(expected)
        np.testing.assert_allclose(part, expected, atol=2e-3 if suffix == "mp3" else 0)


def test_resampling_is_logged_once(tmp_path, caplog):
    path = tmp_path / "sound.wav"
    soundfile.write(path, sound(11025), 11025)
    with caplog.at_level(logging.INFO):
        read_audio(path, FS)
        read_audio(path, FS)
    (record,) = caplog.records
    assert record.getMessage() == f"audio at 11025 Hz is resampled to 16000 Hz (first: {path})"


def broken(tmp_path):
    """Files that cannot be read, with what is said of them."""
    rows = {
        "missing.wav": (None, "no such audio file"),
        "text.wav": (b"not audio at all", "unreadable audio"),
        "cut.flac": (b"fLaC\0\0\0", "unreadable audio"),
        "bytes.raw": (b"\0" * 100, "unreadable audio"),
        "empty.g722": (b"", "audio is empty"),
    }
    if ffmpeg.find_program() is not None:
        rows["text.m4a"] = (b"not audio at all", "unreadable audio")
    for name, (content, _) in rows.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), FS)
    rows["empty.wav"] = (b"", "audio is empty")
    return [(tmp_path / name, message) for name, (_, message) in rows.items()]


def test_decoding_gives_the_range_of_all_samples(tmp_path):
    """Over several blocks, and with a NaN in the last."""
    samples = np.zeros((150000, 2), dtype=np.float32)
    samples[10, 0], samples[-1, 1] = 0.5, -0.25
    soundfile.write(tmp_path / "a.wav", samples, FS, subtype="FLOAT")
    found = decode_audio(tmp_path / "a.wav")
    assert found == AudioRange(150000, -0.25, 0.5) and found.is_finite and not found.is_silent
    samples[-5, 0] = np.nan
    soundfile.write(tmp_path / "b.wav", samples, FS, subtype="FLOAT")
    assert not decode_audio(tmp_path / "b.wav").is_finite
    soundfile.write(tmp_path / "c.wav", np.zeros(0), FS)
    assert decode_audio(tmp_path / "c.wav") == AudioRange(0, 0.0, 0.0)


def test_a_length_that_the_head_does_not_say(tmp_path):
    """As encoders leave it that write to a pipe: libsndfile takes it for endless."""
    path = tmp_path / "pipe.flac"
    soundfile.write(path, sound(FS), FS)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that count the samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    for read in (audio_info, decode_audio, lambda path: read_audio(path, FS)):
        with pytest.raises(AudioError, match="pipe.flac: unreadable audio .its head does not say how long it is"):
            read(path)


@needs_ffmpeg
def test_a_recording_that_was_cut_off(tmp_path):
    """As browsers write it: no duration in its head, and every sample there."""
    wav, path = tmp_path / "sound.wav", tmp_path / "live.webm"
    soundfile.write(wav, sound(FS), FS)
    command = [ffmpeg.find_program(), "-v", "error", "-i", wav, "-c:a", "libopus", "-f", "webm", "-live", "1", path]
    subprocess.run(command, check=True)
    info = audio_info(path)
    assert abs(info.seconds - SECONDS) < 0.1 and info.channels == 1
    assert abs(len(read_audio(path, FS)) - SECONDS * FS) < 0.1 * FS


def test_what_cannot_be_read_is_named(tmp_path):
    for path, message in broken(tmp_path):
        with pytest.raises(AudioError, match=message) as error:
            read_audio(path, FS)
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)


def test_a_missing_decoder_is_said_with_what_to_install(tmp_path, monkeypatch):
    for name, value in (("_torchcodec_decoder", None), ("find_program", None)):
        monkeypatch.setattr(ffmpeg, name, lambda value=value: value)
    path = tmp_path / "speech.m4a"
    path.write_bytes(b"anything")
    for read in (audio_info, lambda path: read_audio(path, FS)):
        with pytest.raises(ffmpeg.MissingDecoderError, match="needs torchcodec or ffmpeg.*pip install imageio-ffmpeg"):
            read(path)


def test_torchcodec_comes_first(tmp_path, monkeypatch):
    """With a stand-in of the same interface: torchcodec itself wants FFmpeg's libraries."""

    class Decoder:
        def __init__(self, source, *, sample_rate=None, num_channels=None):
            if source.endswith("broken.m4a"):
                raise RuntimeError("Could not open input file")
            self.rate = sample_rate
            seconds = None if source.endswith("live.webm") else SECONDS
            self.metadata = type("", (), {"sample_rate": 48000, "num_channels": 2, "duration_seconds": seconds})

        def get_all_samples(self):
            torch = pytest.importorskip("torch")
            return type("", (), {"data": torch.from_numpy(sound(self.rate)).float()[None]})

    monkeypatch.setattr(ffmpeg, "_torchcodec_decoder", lambda: Decoder)
    for name in ("speech.m4a", "broken.m4a", "live.webm"):
        (tmp_path / name).write_bytes(b"anything")
    assert audio_info(tmp_path / "speech.m4a") == audio.AudioInfo(48000, 2, round(SECONDS * 48000))
    assert audio_info(tmp_path / "live.webm").frames == round(SECONDS * 48000)
    np.testing.assert_allclose(read_audio(tmp_path / "speech.m4a", FS), sound(FS), atol=1e-6)
    with pytest.raises(AudioError, match="broken.m4a: unreadable audio .Could not open input file.$"):
        read_audio(tmp_path / "broken.m4a", FS)
