"""A plain SimCLR step in PyTorch, to put beside ours: ResNet, projector, dense NT-Xent, augmentation on the device.

The network is that of `spectral_jax.models.ResNet`: the same layers, sizes and stems. The views are random resized
crops, flips, jitter of brightness, contrast and saturation, and gray, drawn for each image.
"""

import time

import torch
from torch import nn
from torch.nn import functional

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


def convolution(inputs, outputs, size, stride=1):
  return nn.Conv2d(inputs, outputs, size, stride, (size - 1) // 2, bias=False)


class Block(nn.Module):
  def __init__(self, inputs, features, stride, bottleneck):
    super().__init__()
    outputs = features * (4 if bottleneck else 1)
    sizes = [(inputs, features, 1, 1), (features, features, 3, stride), (features, outputs, 1, 1)] if bottleneck else [
        (inputs, features, 3, stride), (features, features, 3, 1)]
    layers = []
    for i, size in enumerate(sizes):
      layers += [convolution(*size), nn.BatchNorm2d(size[1])] + ([nn.ReLU()] if i + 1 < len(sizes) else [])
    self.body = nn.Sequential(*layers)
    same = stride == 1 and inputs == outputs
    self.shortcut = nn.Identity() if same else nn.Sequential(
        convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

  def forward(self, x):
    return functional.relu(self.body(x) + self.shortcut(x))


class Network(nn.Module):
  """Encoder and a projector of one hidden layer."""

  def __init__(self, depth, stem, hidden, dim):
    super().__init__()
    first = [convolution(3, 64, 3)] if stem == "cifar" else [convolution(3, 64, 7, 2)]
    layers, inputs = [*first, nn.BatchNorm2d(64), nn.ReLU()], 64
    if stem == "imagenet":
      layers.append(nn.MaxPool2d(3, 2, 1))
    for stage, count in enumerate(BLOCKS[depth]):
      for i in range(count):
        block = Block(inputs, 64 * 2**stage, 2 if stage and not i else 1, depth == "resnet50")
        inputs = 64 * 2**stage * (4 if depth == "resnet50" else 1)
        layers.append(block)
    self.encoder = nn.Sequential(*layers)
    self.projector = nn.Sequential(
        nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(),
        nn.Linear(hidden, dim, bias=False), nn.BatchNorm1d(dim))

  def forward(self, x):
    return self.projector(self.encoder(x).mean((2, 3)))


def view(images):
  """One random view of float images `(b, 3, h, w)` in [0, 1]."""
  b, draw = len(images), lambda low, high: torch.empty(len(images), 1, 1, 1, device=images.device).uniform_(low, high)
  area, ratio = draw(0.08, 1.0).flatten(), torch.exp(draw(-0.288, 0.288)).flatten()
  height, width = torch.sqrt(area / ratio).clamp(max=1), torch.sqrt(area * ratio).clamp(max=1)
  flip = torch.where(draw(-1, 1).flatten() < 0, -1.0, 1.0)
  theta = torch.zeros(b, 2, 3, device=images.device)
  theta[:, 0, 0], theta[:, 1, 1] = width * flip, height
  theta[:, 0, 2], theta[:, 1, 2] = (1 - width) * draw(-1, 1).flatten(), (1 - height) * draw(-1, 1).flatten()
  x = functional.grid_sample(images, functional.affine_grid(theta, list(images.shape), align_corners=False),
                             align_corners=False)
  gray = x.mean(1, keepdim=True)
  jittered = (gray + (x - gray) * draw(0.6, 1.4)) * draw(0.6, 1.4)
  mean = jittered.mean((1, 2, 3), keepdim=True)
  jittered = (mean + (jittered - mean) * draw(0.6, 1.4)).clamp(0, 1)
  x = torch.where(draw(0, 1) < 0.8, jittered, x)
  return torch.where(draw(0, 1) < 0.2, x.mean(1, keepdim=True), x)


def nt_xent(z, temperature):
  """Dense NT-Xent of `(2 b, d)`, the views of an image b rows apart."""
  z = functional.normalize(z.float(), dim=1)
  n = len(z)
  scores = (z @ z.T / temperature).masked_fill(torch.eye(n, dtype=torch.bool, device=z.device), float("-inf"))
  return functional.cross_entropy(scores, torch.arange(n, device=z.device).roll(n // 2))


def make_step(depth, stem, hidden, dim, *, batch, side, device, half, compiled, temperature=0.5):
  """Returns `step()`: augmentation, both passes and an SGD update of random images, finished when it returns."""
  network = Network(depth, stem, hidden, dim).to(device, memory_format=torch.channels_last).train()
  optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
  images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device)

  def loss_of(images):
    pixels = images.float() / 255
    x = torch.cat([view(pixels), view(pixels)]).to(memory_format=torch.channels_last)
    with torch.autocast(device, torch.bfloat16, enabled=half):
      z = network(x)
    return nt_xent(z, temperature)

  loss_of = torch.compile(loss_of) if compiled else loss_of

  def step():
    optimizer.zero_grad(set_to_none=True)
    loss = loss_of(images)
    loss.backward()
    optimizer.step()
    return loss.item()

  return step


def images_per_second(step, batch, steps):
  """Examples, of two views each, that `step` takes a second."""
  step()
  step()
  started = time.perf_counter()
  for _ in range(steps):
    step()
  return batch * steps / (time.perf_counter() - started)
