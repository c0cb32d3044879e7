"""Standard networks at full size with seeded random weights, by name: for compile time, cycles, bits and cost.

    python -m sateen.models.architectures mobilenet_v2 --out mobilenet_v2.onnx

Inputs are of zero mean and unit variance, as the usual normalization of images gives.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import onnx

from sateen.models import (
    classic_networks,
    dense_networks,
    gated_networks,
    mobile_networks,
    other_networks,
    recurrent_networks,
    resnets,
)

ARCHITECTURES: dict[str, Callable[[int], onnx.ModelProto]] = {
    network.__name__: network
    for network in (
        mobile_networks.mobilenet_v1,
        mobile_networks.mobilenet_v2,
        mobile_networks.mobilenet_v4_conv_small,
        mobile_networks.mobileone_s0,
        mobile_networks.shufflenet_v2,
        mobile_networks.efficientnet_lite0,
        resnets.resnet18,
        resnets.resnet34,
        resnets.resnet50,
        resnets.regnet_x_400mf,
        classic_networks.alexnet,
        classic_networks.vgg11,
        classic_networks.vgg16,
        classic_networks.squeezenet,
        classic_networks.googlenet,
        classic_networks.densenet121,
        other_networks.tiny_yolo_v2,
        other_networks.yolo_v8n_backbone,
        other_networks.face_mesh,
        other_networks.quartznet_5x5,
        other_networks.m5,
        other_networks.autoencoder,
        recurrent_networks.keyword_lstm,
        recurrent_networks.keyword_gru,
        gated_networks.mobilenet_v3_small,
        gated_networks.efficientnet_b0,
        dense_networks.unet,
        dense_networks.espcn,
        dense_networks.yolo_v5n,
        dense_networks.yolo_v8n,
    )
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sateen.models.architectures", description=__doc__)
    parser.add_argument("name", choices=ARCHITECTURES)
    parser.add_argument("--out", type=Path, help="NAME.onnx by default")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    out = options.out or Path(f"{options.name}.onnx")
    onnx.save(ARCHITECTURES[options.name](options.seed), out)
    print(f"{out}: {out.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
