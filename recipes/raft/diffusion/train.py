"""RAFT on a diffusion model (arXiv 2304.06767): draw K images of each class, keep the reddest, fine-tune on it, again.

    python recipes/raft/diffusion/train.py --seed 1

From the same warm start goes the control, which keeps one of the K drawn blindly.

The model is made here: a U-Net of diffusers, warm-started on squares, discs and crosses of all colours. What differs
from text is how an output is drawn and what its loss is; ranking, selection and the ranked dataset are posttrain's.
"""

import argparse
import copy
import random
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DModel
from PIL import Image
from torch import Tensor
from torch.nn import functional

from posttrain.objectives.ranking import best
from posttrain.trainers.ranked import RankedGroup, write_ranked
from posttrain.training.run_log import RunLog

CLASSES = ("square", "disc", "cross")
SIZE = 8  # pixels of a side


class ShapeModel:
    """A class-conditional denoiser with its noise schedule and optimizer. Images are [n, 3, SIZE, SIZE] in [-1, 1]."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.unet = UNet2DModel(
            sample_size=SIZE,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            num_class_embeds=len(CLASSES),
        )
        self.scheduler = DDIMScheduler(
            num_train_timesteps=200,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="sample",
            timestep_spacing="trailing",
        )
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), weight_decay=0.0)
        self.generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def sample(self, labels: Tensor, generator: torch.Generator, steps: int = 10) -> Tensor:
        """An image for each of ``labels`` [n], by DDIM."""
        images = torch.randn(len(labels), 3, SIZE, SIZE, generator=generator)
        self.scheduler.set_timesteps(steps)
        for timestep in self.scheduler.timesteps:
            clean = self.unet(images, timestep, class_labels=labels).sample
            images = self.scheduler.step(clean, timestep, images).prev_sample
        return images.clamp(-1, 1)

    def loss(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The mean squared error of the denoised images, at a random time for each."""
        noise = torch.randn(images.shape, generator=generator)
        times = torch.randint(self.scheduler.config.num_train_timesteps, (len(images),), generator=generator)
        noisy = self.scheduler.add_noise(images, noise, times)
        return functional.mse_loss(self.unet(noisy, times, class_labels=labels).sample, images)

    def update(self, images: Tensor, labels: Tensor, learning_rate: float) -> None:
        """One optimizer step on ``images``."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        self.loss(images, labels, self.generator).backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()


def shapes(labels: Tensor, generator: torch.Generator) -> Tensor:
    """A shape of each class in a random colour, at a random place, on a random ground."""
    colour, ground = torch.rand(2, len(labels), 3, 1, 1, generator=generator) * 2 - 1
    centre = torch.rand(2, len(labels), 1, 1, generator=generator) * (SIZE - 4) + 2
    y, x = (torch.arange(SIZE).view(1, -1, 1) - centre[0]).abs(), (torch.arange(SIZE).view(1, 1, -1) - centre[1]).abs()
    square = torch.maximum(x, y) <= 2
    disc = x**2 + y**2 <= 5
    cross = square & (torch.minimum(x, y) <= 0.5)
    inside = torch.stack([square, disc, cross])[labels, torch.arange(len(labels))].unsqueeze(1)
    return torch.where(inside, colour, ground)


def redness(images: Tensor) -> list[float]:
    """The reward: red less the mean of green and blue, averaged over the image, from -1 to 1."""
    return ((images[:, 0] - images[:, 1:].mean(1)).mean((1, 2)) / 2).tolist()


def warm_start(model: ShapeModel, steps: int, batch_size: int = 64) -> None:
    """Learn to draw ``shapes``, the learning rate falling to a tenth."""
    for step in range(steps):
        labels = torch.randint(len(CLASSES), (batch_size,), generator=model.generator)
        model.update(shapes(labels, model.generator), labels, 3e-3 * (1 - 0.9 * step / steps))


def evaluate(model: ShapeModel, images_per_class: int = 64) -> dict[str, float]:
    """Of fresh images, always from the same noise: the reward, and how much a pixel varies between images of a class.
    And the denoising loss on shapes of all colours, which rises as the model leaves what it was warm-started on."""
    labels = torch.arange(len(CLASSES)).repeat_interleave(images_per_class)
    generator = torch.Generator().manual_seed(2**31)
    images = model.sample(labels, generator)
    rewards = redness(images)
    spread = images.view(len(CLASSES), images_per_class, -1).std(1).mean().item()
    with torch.no_grad():
        loss = model.loss(shapes(labels, generator), labels, generator)
    return {"eval/reward": sum(rewards) / len(rewards), "eval/spread": spread, "eval/denoising_loss": loss.item()}


def iterate(
    model: ShapeModel, step: int, folder: Path, selection: str, rng: random.Random, prompts: int, k: int, updates: int
) -> float:
    """One iteration of RAFT; gives the mean reward of what was drawn."""
    labels = torch.arange(prompts) % len(CLASSES)
    images = model.sample(labels.repeat_interleave(k), model.generator)
    rewards = redness(images)
    groups = []
    for prompt, label in enumerate(labels.tolist()):
        own = slice(prompt * k, (prompt + 1) * k)
        same = {"id": f"{step}/{prompt}", "prompt": CLASSES[label]}
        columns = [{**same, "image": save_image(image, folder, step, prompt, i)} for i, image in enumerate(images[own])]
        group = RankedGroup.of(list(images[own]), rewards[own], columns)
        (kept,) = best(group.keys if selection == "best" else [0.0] * k, rng)
        group.weights[kept] = 1.0
        groups.append(group)
    write_ranked(folder / "ranked", step, groups)
    pairs = [pair for group in groups for pair in zip(group.outputs, group.weights, strict=True)]
    kept_images = torch.stack([image for image, weight in pairs if weight])
    for _ in range(updates):
        model.update(kept_images, labels, 2e-4)
    return sum(rewards) / len(rewards)


def save_image(image: Tensor, folder: Path, step: int, prompt: int, index: int) -> str:
    """Write a PNG; gives its path."""
    file = folder / "images" / f"{step:03d}_{prompt:03d}_{index}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    picture(image).save(file)
    return str(file)


def picture(image: Tensor) -> Image.Image:
    """[3, height, width] in [-1, 1] as a picture."""
    return Image.fromarray(((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def save_sheet(model: ShapeModel, file: Path, columns: int = 12) -> None:
    """Write fresh images, a row for each class, four times as large."""
    labels = torch.arange(len(CLASSES)).repeat_interleave(columns)
    images = model.sample(labels, torch.Generator().manual_seed(2**31 + 1))
    rows = images.view(len(CLASSES), columns, 3, SIZE, SIZE).permute(2, 0, 3, 1, 4)
    sheet = picture(rows.reshape(3, len(CLASSES) * SIZE, columns * SIZE))
    sheet.resize((4 * sheet.width, 4 * sheet.height), Image.Resampling.NEAREST).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--images", type=int, default=8, help="K: images of a prompt")
    parser.add_argument("--output", type=Path, default=Path("runs/raft-diffusion"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = ShapeModel(options.seed)
    warm_start(started, steps=500)
    for selection in ("best", "random"):
        folder = options.output / selection
        model, rng, log = copy.deepcopy(started), random.Random(options.seed), RunLog(folder)
        log.log_metrics(0, metrics := evaluate(model))
        save_sheet(model, folder / "start.png")
        print(selection, 0, metrics, flush=True)
        for step in range(1, options.iterations + 1):
            drawn = iterate(model, step, folder, selection, rng, prompts=48, k=options.images, updates=10)
            log.log_metrics(step, metrics := {"reward/mean": drawn, **evaluate(model)})
            print(selection, step, metrics, flush=True)
        save_sheet(model, folder / "end.png")
        model.unet.save_pretrained(folder / "model")
        log.close()


if __name__ == "__main__":
    main()
