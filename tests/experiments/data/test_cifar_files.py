"""Section 6: readers, splits, augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems.cifar import records

from hyperlr.experiments.cifar import training
from hyperlr.experiments.core.errors import InputError
from hyperlr.experiments.data import cifar, split_indices
from hyperlr.experiments.data.cifar import CIFAR10, CIFAR100


@pytest.mark.parametrize("form", [CIFAR10, CIFAR100], ids=lambda form: form.name)
def test_reader_gives_the_pixels_and_labels_that_were_written(form, tmp_path):
    expected, labels, content = records(form, 7)
    path = tmp_path / "file.bin"
    path.write_bytes(content)
    found, found_labels = cifar.read(path, form)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found_labels, labels)
    assert (found.dtype, found_labels.dtype) == (np.uint8, np.int32)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is cut short"),
        (records(CIFAR10, 2)[2][:-1], "is cut short"),
        (records(CIFAR100, 2)[2], "is not CIFAR-10's binary version"),
        (b"\x0a" + records(CIFAR10, 1)[2][1:], "record 0 has the label 10"),
    ],
)
def test_damaged_files_are_clear_errors(content, complaint, tmp_path):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        cifar.read(path, CIFAR10)


def test_data_directory_holds_the_folder_or_the_files(cifar_dir, tmp_path, monkeypatch):
    by_folder = cifar.load(CIFAR10, cifar_dir)
    directly = cifar.load(CIFAR10, cifar_dir / CIFAR10.folder)
    np.testing.assert_array_equal(by_folder.images, directly.images)
    assert (len(by_folder.images), len(by_folder.test_images)) == (120, 20)
    (tmp_path / "data_batch_1.bin").write_bytes(records(CIFAR10, 5)[2])
    (tmp_path / "data_batch_3.bin").write_bytes(records(CIFAR10, 4, seed=3)[2])
    with pytest.raises(InputError, match=r"test_batch\.bin is missing"):
        cifar.load(CIFAR10, tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(records(CIFAR10, 5)[2])
    monkeypatch.setenv("HYPERLR_DATA_DIR", str(tmp_path))
    assert len(cifar.load(CIFAR10, None).images) == 9
    monkeypatch.delenv("HYPERLR_DATA_DIR")
    with pytest.raises(InputError, match=r"pass --data-dir .*cifar-10-batches-bin"):
        cifar.load(CIFAR10, None)
    with pytest.raises(InputError, match="none of CIFAR-100's files"):
        cifar.load(CIFAR100, tmp_path)
    with pytest.raises(InputError, match="no directory"):
        cifar.load(CIFAR10, tmp_path / "nowhere")


def test_split_and_colours(cifar_dir):
    loaded = cifar.load(CIFAR10, cifar_dir)
    train, val = split_indices(loaded, seed=3, val_first=True)
    assert (len(train), len(val)) == (loaded.num_train, loaded.num_val) == (108, 12)
    assert set(train) | set(val) == set(range(120))
    pictures = records(CIFAR10, 20)[0].copy()
    pictures[..., 2] = 51  # a colour that never varies
    mean, deviation = cifar.channel_statistics(pictures)
    np.testing.assert_allclose(mean, (pictures / 255).mean((0, 1, 2)), rtol=1e-6)
    expected = (pictures / 255).std((0, 1, 2))
    np.testing.assert_allclose(deviation, [expected[0], expected[1], 1.0], rtol=1e-5)
    normal = training.normalize(jnp.asarray(pictures), *map(jnp.asarray, (mean, deviation)))
    np.testing.assert_allclose(normal.mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(normal.std((0, 1, 2)), [1.0, 1.0, 0.0], atol=1e-5)


def test_augmented_images_are_crops_out_of_a_black_frame_and_half_are_flipped():
    pictures = records(CIFAR10, 200)[0]
    augmented = np.asarray(training.augment(jax.random.key(0), jnp.asarray(pictures)))
    framed = np.pad(pictures, ((0, 0), (4, 4), (4, 4), (0, 0)))
    seen = []
    for image, frame in zip(augmented, framed, strict=True):
        candidates = {
            (row, column, direction): frame[row : row + 32, column : column + 32][:, ::direction]
            for row in range(9)
            for column in range(9)
            for direction in (1, -1)
        }
        matches = [key for key, crop in candidates.items() if np.array_equal(image, crop)]
        assert len(matches) == 1
        seen += matches
    rows, columns, directions = zip(*seen, strict=True)
    assert set(rows) == set(columns) == set(range(9))
    assert 70 < directions.count(-1) < 130
