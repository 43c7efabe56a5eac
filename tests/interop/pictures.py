"""Serve recorded pictures as cameras of LeRobot's type "zmq": `python pictures.py FILE.npz PORT`, until it is killed.

FILE.npz has (frames, height, width, 3) uint8 rgb by camera name; they are shown in turn. In LeRobot's environment.
"""

import base64
import itertools
import json
import sys
import time

import cv2
import numpy as np
import zmq

RATE_HZ = 15


def main(file: str, port: str) -> None:
    cameras = dict(np.load(file))
    socket = zmq.Context().socket(zmq.PUB)
    socket.bind(f"tcp://127.0.0.1:{port}")
    for index in itertools.count():
        # LeRobot's client takes the decoded array as rgb without a change of order, so none is made here either.
        shown = {name: cv2.imencode(".jpg", frames[index % len(frames)])[1] for name, frames in cameras.items()}
        images = {name: base64.b64encode(jpeg).decode() for name, jpeg in shown.items()}
        socket.send_string(json.dumps({"timestamps": dict.fromkeys(images, time.time()), "images": images}))
        time.sleep(1 / RATE_HZ)


if __name__ == "__main__":
    main(*sys.argv[1:])
