"""Writes adamw.json and schedules.json: what torch.optim.AdamW and transformers' schedulers give.

Run with torch and transformers installed: python make_golden.py
"""

import json
from pathlib import Path

import torch
from transformers import optimization

HERE = Path(__file__).parent
STEPS = 7
LEARNING_RATE = 0.02
BETAS = (0.9, 0.95)
EPS = 1e-8


def adamw_case(dtype: torch.dtype, sizes: list[int]) -> dict:
    """Two groups (decay 0.1 at rate x 1, no decay at rate x 0.5). bfloat16 weights have a float32 master."""
    generator = torch.Generator().manual_seed(7)
    start = [torch.randn(n, generator=generator).to(dtype) for n in sizes]
    gradients = [[torch.randn(n, generator=generator).to(dtype) for n in sizes] for _ in range(STEPS)]
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    masters = [w.to(compute).clone().requires_grad_(True) for w in start]
    optimizer = torch.optim.AdamW(
        [
            {"params": masters[:1], "weight_decay": 0.1},
            {"params": masters[1:], "weight_decay": 0.0, "lr": LEARNING_RATE * 0.5},
        ],
        lr=LEARNING_RATE, betas=BETAS, eps=EPS, foreach=False, fused=False,
    )
    for step_gradients in gradients:
        for master, gradient in zip(masters, step_gradients):
            master.grad = gradient.to(compute)
        optimizer.step()
    return {
        "start": [w.tolist() for w in start],
        "gradients": [[g.tolist() for g in step] for step in gradients],
        "end": [m.detach().to(dtype).tolist() for m in masters],
        "master": [m.detach().tolist() for m in masters],
        "exp_avg": [optimizer.state[m]["exp_avg"].tolist() for m in masters],
        "exp_avg_sq": [optimizer.state[m]["exp_avg_sq"].tolist() for m in masters],
    }


def schedule(make, steps: int) -> list[float]:
    """The factor at each index. transformers' own warm-up starts at 0; ours is one step ahead of it."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(steps):
        factors.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return factors


def main() -> None:
    sizes = [37, 21]
    cases = {str(d).removeprefix("torch."): adamw_case(d, sizes)
             for d in (torch.float32, torch.bfloat16, torch.float64)}
    (HERE / "adamw.json").write_text(json.dumps(cases) + "\n")
    steps, warmup, decay = 40, 8, 10
    schedules = {
        "linear": schedule(lambda o: optimization.get_linear_schedule_with_warmup(o, warmup, steps), steps),
        "cosine": schedule(lambda o: optimization.get_cosine_with_min_lr_schedule_with_warmup(
            o, warmup, steps, min_lr_rate=0.1), steps),
        "inverse_sqrt": schedule(lambda o: optimization.get_inverse_sqrt_schedule(o, warmup), steps),
        **{f"wsd {name}": schedule(lambda o, name=name: optimization.get_wsd_schedule(
            o, num_warmup_steps=warmup, num_decay_steps=decay, num_training_steps=steps, decay_type=name,
            min_lr_ratio=0.1), steps) for name in ("linear", "cosine", "1-sqrt")},
    }
    (HERE / "schedules.json").write_text(json.dumps(schedules, indent=1) + "\n")


if __name__ == "__main__":
    main()
