"""Launcher of kernels/images.cl: a batch of images, cropped and mirrored at random, and reduced.

The draws are functions of the round's key, the step and the row, so that whoever recomputes a
step sees the same images.
"""

from dataclasses import dataclass

import numpy as np

from p2ptrain.device.kernels import LOCAL_SIZE, Argument, Launch, ceil_to
from p2ptrain.device.opencl import DeviceArray
from p2ptrain.device.operations import Operations, Samples
from p2ptrain.errors import ConfigError

# Places of the scalars that a plan sets anew at each step, in the arguments of gather_images.
VARYING = {"slot": 15, "step": 16, "noise_low": 17, "noise_high": 18}
PADDING_MAX = 1 << 15  # of a crop: its draws stay even


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """The images of one step.

    x  (rows, out_height, out_width, channels) float32
    y  (rows,) int32, -1 for a row that is missing
    """

    x: DeviceArray
    y: DeviceArray


@dataclass(frozen=True, slots=True)
class ImageDraw:
    """What is drawn from a sample.

    height, width, channels  of a sample, channels last
    out_height, out_width    of an image of the batch; divisors of height and width
    crop_padding             pixels by which a crop may move to each side; 0: none
    flip                     whether half of the images are mirrored left to right

    Raises:
      ConfigError  the sample does not reduce to that size by whole blocks; a negative padding
    """

    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    crop_padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        sides = ((self.height, self.out_height), (self.width, self.out_width))
        if any(out < 1 or whole % out for whole, out in sides):
            raise ConfigError(
                f"images of {self.height} x {self.width} pixels do not reduce to "
                f"{self.out_height} x {self.out_width}: choose divisors of height and width"
            )
        if not 0 <= self.crop_padding <= PADDING_MAX:
            raise ConfigError(
                f"crop padding of {self.crop_padding} pixels: choose 0 .. {PADDING_MAX}"
            )

    @property
    def share(self) -> np.float32:
        """The factor that makes a block's sum its mean."""
        blocks = (self.height // self.out_height) * (self.width // self.out_width)
        return np.float32(1 / blocks)


def gather_images(
    operations: Operations,
    samples: Samples,
    index: DeviceArray,
    out: ImageBatch,
    draw: ImageDraw,
) -> list[Launch]:
    """Rows index[slot * rows ..] of the samples as a batch of images; slot, step and noise vary.

    Args:
      samples  x (samples, height * width * channels)
      index    (steps * rows,) int32; under 0: zeros with label -1
    """
    rows = out.y.size
    is_cpu = operations.tile is not None
    image_rows, local_size = (draw.out_height, 1) if is_cpu else (1, LOCAL_SIZE)
    shape = (draw.height, draw.width, draw.channels, draw.out_height, draw.out_width, image_rows)
    arguments: tuple[Argument, ...] = (
        *(samples.x, samples.y, index, out.x, out.y, np.int32(rows)),
        *(np.int32(value) for value in shape),
        draw.share,
        np.int32(draw.crop_padding),
        np.int32(draw.flip),
        np.int32(0),
        *(np.uint32(0), np.uint32(0), np.uint32(0)),
    )
    size = (ceil_to(-(-draw.out_height // image_rows), local_size), rows)
    launch = operations.library.launch(
        "images.gather_images", size, (local_size, 1), arguments, varying=VARYING
    )
    return [launch]
