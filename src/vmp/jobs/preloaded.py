"""What a run imports, imported once by the server that warm jobs are forked from (process.py).

torch._dynamo is what torch's optimizers import when they are made: six seconds.
"""

import warnings

warnings.filterwarnings("ignore", r".*torch\.jit", FutureWarning)  # from pytorchvideo's import

import av  # noqa: E402, F401
import cv2  # noqa: E402, F401
import hydra.main  # noqa: E402, F401
import matplotlib.pyplot  # noqa: E402, F401
import pytorchvideo.models.resnet  # noqa: E402
import pytorchvideo.models.slowfast  # noqa: E402
import pytorchvideo.models.x3d  # noqa: E402, F401
import safetensors.torch  # noqa: E402, F401
import torch._dynamo  # noqa: E402, F401

import vmp.backbones.convnets  # noqa: E402
import vmp.backbones.timesformer  # noqa: E402
import vmp.engine.evaluator  # noqa: E402
import vmp.engine.trainer  # noqa: E402
import vmp.evaluate  # noqa: E402
import vmp.model  # noqa: E402
import vmp.objective  # noqa: E402
import vmp.train  # noqa: E402, F401
