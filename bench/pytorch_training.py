#!/usr/bin/env python3
"""Train the single-stage model as an eager PyTorch loop would: what `bignas train` is measured against.

    pytorch_training.py SPACE WEIGHTS --steps 30 --batch-size 128 --threads 2 [--channels-last]
    pytorch_training.py SPACE WEIGHTS --steps 20 --batch FILE --mean M M M --std S S S --random-children 0 --rate 0.01

SPACE is a search space as JSON and WEIGHTS the safetensors file of a model in it; both are what `bignas init` writes.
The loop is the paper's: the biggest child learns from labels, the smallest and two random ones from its predictions,
the gradients are added, and RMSProp as TensorFlow has it makes one update. Its images are random, or those of a file in
CIFAR-10's binary form, and lie in memory, normalised, before the clock starts: unlike `bignas train` it pays nothing for
reading and augmenting them. Prints one line of JSON: of every step the images per second, and the losses: the biggest
child's, the smallest's, and those of the random ones.
"""

import argparse
import json
import random
import struct
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

ACTIVATIONS = {"swish": F.silu, "relu": F.relu, "hard_swish": F.hardswish}


def read_safetensors(path):
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            values = bytearray(data[8 + length + start : 8 + length + end])
            tensors[name] = torch.frombuffer(values, dtype=torch.float32).reshape(entry["shape"])
    return tensors


def same(size, kernel, stride):
    """TensorFlow's padding before and after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Conv(nn.Module):
    """A convolution of any width and kernel up to its own, with batch norm and activation where asked for."""

    def __init__(self, c_in, c_out, kernel, stride, eps, activation=None, depthwise=False, norm=True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c_out, 1 if depthwise else c_in, kernel, kernel))
        self.stride, self.eps, self.activation, self.depthwise = stride, eps, activation, depthwise
        self.bn = nn.ParameterDict({"weight": torch.empty(c_out), "bias": torch.empty(c_out)}) if norm else None

    def forward(self, x, c_out, kernel):
        c_in, whole = x.shape[1], self.weight.shape[2]
        start = (whole - kernel) // 2
        weight = self.weight[:c_out, : 1 if self.depthwise else c_in, start : start + kernel, start : start + kernel]
        begin, end = same(x.shape[2], kernel, self.stride)
        if begin != end:
            x, begin = F.pad(x, (begin, end, begin, end)), 0
        x = F.conv2d(x, weight, None, self.stride, begin, 1, c_in if self.depthwise else 1)
        if self.bn is not None:
            x = F.batch_norm(x, None, None, self.bn["weight"][:c_out], self.bn["bias"][:c_out], True, 0.0, self.eps)
        return self.activation(x) if self.activation else x


class Linear(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(shape)), nn.Parameter(torch.empty(shape[0]))

    def forward(self, x, features):
        weight = self.weight.flatten(1)[:features, : x.shape[1]]
        return F.linear(x, weight, self.bias[:features])


class SqueezeExcite(nn.Module):
    def __init__(self, reduced, channels):
        super().__init__()
        self.reduce, self.expand = Linear((reduced, channels, 1, 1)), Linear((channels, reduced, 1, 1))

    def forward(self, x, reduced):
        gate = self.expand(F.silu(self.reduce(x.mean((2, 3)), reduced)), x.shape[1]).sigmoid()
        return x * gate[:, :, None, None]


class Block(nn.Module):
    def __init__(self, c_in, stage, first, space):
        super().__init__()
        c_out, kernel = stage["channels"][-1], stage["kernel"][-1]
        eps, activation = space["bn_eps"], ACTIVATIONS[space["activation"]]
        self.expansion, self.stride = stage["expansion"][0], stage["stride"] if first else 1
        self.ratio = stage["squeeze_excite"]["ratio"]
        wide = c_in * self.expansion
        if self.expansion > 1:
            self.expand = Conv(c_in, wide, 1, 1, eps, activation)
        self.depthwise = Conv(wide, wide, kernel, self.stride, eps, activation, depthwise=True)
        self.se = SqueezeExcite(max(1, int(c_in * self.ratio)), wide)
        self.project = Conv(wide, c_out, 1, 1, eps)
        if first or len(stage["channels"]) > 1:
            self.shortcut = Conv(c_in, c_out, 1, 1, eps, norm=False)

    def forward(self, inputs, c_out, kernel):
        c_in = inputs.shape[1]
        wide = c_in * self.expansion
        x = self.expand(inputs, wide, 1) if self.expansion > 1 else inputs
        x = self.se(self.depthwise(x, wide, kernel), max(1, int(c_in * self.ratio)))
        x = self.project(x, c_out, 1)
        if self.stride == 2:
            inputs = F.avg_pool2d(inputs, 2, 2, ceil_mode=True, count_include_pad=False)
        return x + (self.shortcut(inputs, c_out, 1) if c_in != c_out else inputs)


class Head(nn.Module):
    def __init__(self, c_in, c_out, space):
        super().__init__()
        self.conv = Conv(c_in, c_out, 1, 1, space["bn_eps"], ACTIVATIONS[space["activation"]])


class Supernet(nn.Module):
    def __init__(self, space, classes):
        super().__init__()
        stem = space["stem"]
        self.space = space
        activation = ACTIVATIONS[space["activation"]]
        self.stem = Conv(space["input_channels"], stem["channels"][-1], stem["kernel"], stem["stride"], space["bn_eps"], activation)
        channels, self.stages = stem["channels"][-1], nn.ModuleList()
        for stage in space["stages"]:
            widths = [channels] + [stage["channels"][-1]] * stage["depth"][-1]
            blocks = [Block(widths[layer], stage, layer == 0, space) for layer in range(stage["depth"][-1])]
            self.stages.append(nn.ModuleList(blocks))
            channels = stage["channels"][-1]
        self.head = Head(channels, space["head"]["channels"][-1], space)
        self.classifier = Linear((classes, space["head"]["channels"][-1]))

    def forward(self, x, child, dropout=0.0):
        x = self.stem(x, child["stem"], self.space["stem"]["kernel"])
        for blocks, layers in zip(self.stages, child["stages"]):
            for block, (c_out, kernel) in zip(blocks, layers):
                x = block(x, c_out, kernel)
        x = self.head.conv(x, child["head"], 1).mean((2, 3))
        return self.classifier(F.dropout(x, dropout), self.classifier.weight.shape[0])


def choose(space, pick):
    """A child in which `pick` makes every choice."""

    def layers(stage):
        return [(pick(stage["channels"]), pick(stage["kernel"])) for _ in range(pick(stage["depth"]))]

    child = {"resolution": pick(space["training_resolutions"]), "stem": pick(space["stem"]["channels"])}
    return child | {"stages": [layers(stage) for stage in space["stages"]], "head": pick(space["head"]["channels"])}


def resize(images, side, memory_format):
    if images.shape[2] != side:
        images = F.interpolate(images, size=(side, side), mode="bicubic")
    return images.contiguous(memory_format=memory_format)


class RmsPropTensorFlow:
    """Epsilon inside the root, mean squares from one on, the learning rate inside the momentum."""

    def __init__(self, parameters, decay=0.9, momentum=0.9, eps=1e-3, weight_decay=1e-5):
        self.parameters = list(parameters)
        self.decay, self.momentum, self.eps, self.weight_decay = decay, momentum, eps, weight_decay
        self.mean_squares = [torch.ones_like(p) for p in self.parameters]
        self.velocities = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, rate):
        for p, square, velocity in zip(self.parameters, self.mean_squares, self.velocities):
            if p.grad is None:
                continue
            gradient = p.grad.add(p, alpha=self.weight_decay) if p.dim() > 1 else p.grad
            square.mul_(self.decay).addcmul_(gradient, gradient, value=1 - self.decay)
            velocity.mul_(self.momentum).addcdiv_(gradient, (square + self.eps).sqrt_(), value=rate)
            p.sub_(velocity)
            p.grad = None


def train_step(net, optimiser, space, images, labels, args, memory_format):
    biggest, smallest = choose(space, lambda values: values[-1]), choose(space, lambda values: values[0])
    logits = net(resize(images, biggest["resolution"], memory_format), biggest, space["head"]["dropout"])
    loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
    loss.backward()
    losses = [loss.item()]
    target = logits.detach().softmax(1)
    for child in [smallest] + [choose(space, random.choice) for _ in range(args.random_children)]:
        loss = F.cross_entropy(net(resize(images, child["resolution"], memory_format), child), target)
        loss.backward()
        losses.append(loss.item())
    optimiser.step(args.rate)
    return losses


def read_batch(path, mean, std):
    """All images of a file in CIFAR-10's binary form, normalised, and their labels."""
    records = torch.frombuffer(bytearray(Path(path).read_bytes()), dtype=torch.uint8).reshape(-1, 3073)
    images = records[:, 1:].reshape(-1, 3, 32, 32).float() / 255
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (mean, std))
    return (images - mean) / std, records[:, 0].long()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("space")
    parser.add_argument("weights")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--random-children", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--batch", help="the images of every step, in CIFAR-10's binary form")
    parser.add_argument("--mean", type=float, nargs=3)
    parser.add_argument("--std", type=float, nargs=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    random.seed(0)

    space = json.loads(Path(args.space).read_text())
    weights = read_safetensors(args.weights)
    net = Supernet(space, classes=weights["classifier.bias"].numel())
    net.load_state_dict(weights)
    memory_format = torch.channels_last if args.channels_last else torch.contiguous_format
    net.to(memory_format=memory_format)
    optimiser = RmsPropTensorFlow(net.parameters())
    side = 32 if space["input_channels"] == 3 else 28
    if args.batch:
        images, labels = read_batch(args.batch, args.mean, args.std)
    else:
        images = torch.randn(args.batch_size, space["input_channels"], side, side)
        labels = torch.randint(0, 10, (args.batch_size,))
    speeds, losses = [], []
    for _ in range(args.steps):
        started = time.perf_counter()
        losses.append(train_step(net, optimiser, space, images, labels, args, memory_format))
        speeds.append(round(len(labels) / (time.perf_counter() - started), 1))
    print(json.dumps({"images_per_second": speeds, "losses": losses}))


if __name__ == "__main__":
    main()
