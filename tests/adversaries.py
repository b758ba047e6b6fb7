"""Losses with a discriminator small enough to train in a second."""

L1 = "terms: {l1: {_target_: diffi2i.losses.pixel.L1}}"
UNET = "{_target_: diffi2i.models.discriminator.UNetDiscriminator, width: 2}"
PATCH = "{_target_: diffi2i.models.discriminator.PatchDiscriminator, width: 2, layers: 2}"
HINGE = f"{{_target_: diffi2i.losses.adversarial.HingeAdversary, discriminator: {UNET}}}"
ADVERSARIES = {
    "sisr": f"{{_target_: diffi2i.losses.adversarial.RealESRGANAdversary, discriminator: {UNET}, lr_factor: 0.5}}",
    "inpainting": f"{{_target_: diffi2i.losses.adversarial.LamaAdversary, discriminator: {PATCH}}}",
}


def gan(task: str, adversary: str | None = None) -> tuple[str, ...]:
    """The overrides by which a task trains on L1 and against a discriminator."""
    node = f"{{_target_: diffi2i.losses.task.TaskLoss, {L1}, adversary: {adversary or ADVERSARIES[task]}}}"
    return (f"task={task}", f"+task.losses.gan={node}", "train.loss=gan")
