"""The generated dataset `motions`: short H.264 clips whose class is visible only in their motion.

Notes:
- any one frame, at any index, has the same distribution under every class: place uniform on a torus (an object that
  leaves on one side enters on the other), angle uniform, log of the radius uniform on a circle, no motion blur. So
  a classifier of single frames is at chance by construction, and only the order of frames tells the class;
- look, place, speed and camera are drawn independently of the class;
- camera "static": the scene stands still. "moving": scene and object share a smooth pan plus hand jitter, and the
  class is the motion relative to the scene. "both": drawn for each clip;
- every frame is encoded on its own: a predicted frame would carry traces of earlier ones, hence of the motion;
- a clip is a function of (seed, camera, split, index) and the picture settings; neither the number of clips nor
  the number of workers changes it;
- reversed in time, move_left is move_right, so a flip of the frames or of left and right changes the class.

Two sets of classes: ten for fine-tuning (ten.py), and those that networks are pretrained on, none of them one of the
ten (pretraining.py). Files are made by files.py, pictures by pictures.py.

Shapes: T frames of S x S pixels, RGB; x to the right, y down; lengths in pixels, angles in radians, clockwise.
"""

from vmp.data.motions.files import make_motions
from vmp.data.motions.pictures import object_masks, render_clip
from vmp.data.motions.spec import CAMERAS, SPLITS, Motions, folder_name, label_of, motion_of
from vmp.data.motions.state import Body, Motion
from vmp.data.motions.ten import CLASSES
