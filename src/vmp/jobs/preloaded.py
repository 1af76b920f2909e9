"""What a run imports, imported once by the server that warm jobs are forked from (process.py).

torch._dynamo is what torch's optimizers import when they are made: six seconds. One composed config loads Hydra's
plugins and fills its parser's tables: a third of a second.
"""

import warnings
from contextlib import suppress

warnings.filterwarnings("ignore", r".*torch\.jit", FutureWarning)  # from pytorchvideo's import

import av  # noqa: E402, F401
import cv2  # noqa: E402, F401
import hydra.main  # noqa: E402, F401
import matplotlib.backends.backend_agg  # noqa: E402
import matplotlib.pyplot  # noqa: E402, F401
import PIL.Image  # noqa: E402
import pytorchvideo.models.resnet  # noqa: E402
import pytorchvideo.models.slowfast  # noqa: E402
import pytorchvideo.models.x3d  # noqa: E402, F401
import safetensors.torch  # noqa: E402, F401
import torch._dynamo  # noqa: E402, F401

import vmp.backbones.convnets  # noqa: E402
import vmp.backbones.timesformer  # noqa: E402
import vmp.backbones.weights  # noqa: E402
import vmp.data.motions.files  # noqa: E402
import vmp.engine.evaluator  # noqa: E402
import vmp.engine.loop  # noqa: E402
import vmp.evaluate  # noqa: E402
import vmp.figures.curves  # noqa: E402
import vmp.finetune  # noqa: E402
import vmp.model  # noqa: E402
import vmp.objective  # noqa: E402
import vmp.train  # noqa: E402, F401
from vmp.compose import CONF, composer  # noqa: E402

PIL.Image.preinit()
with suppress(Exception):  # a run tells what is wrong
    composer(CONF)(["backbone=tiny"])
