"""Write the demo's photograph: Eileen Collins, by NASA, public domain, from scikit-image.

python demo/photograph.py FOLDER
"""

import sys
from pathlib import Path

import skimage.data
from PIL import Image

ROWS = 400  # without the badge on her suit, which the detector takes for a second face

if __name__ == "__main__":
    path = Path(sys.argv[1]) / "eileen_collins.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(skimage.data.astronaut()[:ROWS]).save(path)
    print(f"photograph: {path}")
