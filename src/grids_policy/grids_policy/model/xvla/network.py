"""X-VLA in plain PyTorch: LeRobot's weights, LeRobot's numbers.

    cache = policy.encode(images, image_mask, state, tokens, token_mask)  # once per observation
    actions = policy.sample(noise, cache)                                 # num_steps denoise_step

It differs from SmolVLA and pi0 in these points:

* The network predicts clean actions, not a velocity. The noise stays the same in every step: at flow time t the input
  is noise * t + actions * (1 - t), with the actions of the step before; the first step has the noise alone.
* There is no cache of keys and values: actions and context read each other in both directions, so all layers run over
  the whole sequence in every step. Fewer image tokens save time in every step.
* Only the first camera and the sentence go through the language encoder; other cameras go to the action transformer
  as they are. Padding words and absent cameras (zeros) are attended to.
* The state is part of every action token. Input and output of the action tokens, and the soft prompts, are those of
  one robot (`domain`) of the 30 that a checkpoint knows.
* Positions are learnt by index. With fewer image tokens in the context all later ones move to other positions, so a
  policy reduced behind the connector must be trained. Reducers inside the action transformer act behind that.

Dims: B batch, N cameras, T cells per camera, K sampled tokens per camera, L words, S chunk_size, A max_action_dim,
D width of the language encoder, H width of the action transformer, M tokens of the context.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from grids_policy.model.config import PolicyConfig, TextConfig
from grids_policy.model.denoise import keep_committed
from grids_policy.model.layers import split_heads
from grids_policy.model.preprocess import fit_image
from grids_policy.model.reducers.build import build_sampler
from grids_policy.model.reducers.interface import Sampled, retained
from grids_policy.model.reducers.pruning import AbstractPruner, Heads, Layout, Tokens
from grids_policy.model.xvla.davit import Davit, FlorenceProjector

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_TIME_PERIOD = 100.0
_FIRST_POSITION = 2  # of BART's table


class XvlaCache(NamedTuple):
    """One encoded observation, all that the denoising steps need of it."""

    context: Tensor  # (B, M, H) with positions, soft prompts last
    proprio: Tensor  # (B, max_state_dim)
    coords: Tensor  # (B, N, K, 2) sample locations (x, y) in [0, 1]
    retention: Tensor  # (B, N, T), GridS's eq. 5
    domain: Tensor  # (B,) robots


def attend_all(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of all tokens to all (B, heads, tokens, d): (B, tokens, heads*d)."""
    weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)


class BartAttention(nn.Module):
    """Self-attention with biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.add_module(name, nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, tokens, D), of the same shape afterwards."""
        query, key, value = (split_heads(p(x), self.heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(attend_all(query, key, value))


class BartLayer(nn.Module):
    """Norms behind the residual sums."""

    def __init__(self, text: TextConfig) -> None:
        super().__init__()
        self.self_attn = BartAttention(text.width, text.heads)
        self.self_attn_layer_norm = nn.LayerNorm(text.width)
        self.fc1, self.fc2 = nn.Linear(text.width, text.mlp), nn.Linear(text.mlp, text.width)
        self.final_layer_norm = nn.LayerNorm(text.width)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, tokens, D), of the same shape afterwards."""
        x = self.self_attn_layer_norm(x + self.self_attn(x))
        return self.final_layer_norm(x + self.fc2(F.gelu(self.fc1(x))))


class BartEncoder(nn.Module):
    """Image tokens of the first camera and words, all reading each other."""

    def __init__(self, text: TextConfig, positions: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(text.vocab, text.width)
        self.embed_positions = nn.Embedding(positions + _FIRST_POSITION, text.width)
        self.layernorm_embedding = nn.LayerNorm(text.width)
        self.layers = nn.ModuleList(BartLayer(text) for _ in range(text.depth))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, tokens, D), of the same shape afterwards."""
        where = self.embed_positions.weight[_FIRST_POSITION : _FIRST_POSITION + x.shape[1]]
        x = self.layernorm_embedding(x + where)
        for layer in self.layers:
            x = layer(x)
        return x


class DomainLinear(nn.Module):
    """A linear layer with weights for every robot; a robot's row is stored (inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int, domains: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.fc, self.bias = nn.Embedding(domains, inputs * outputs), nn.Embedding(domains, outputs)

    def forward(self, x: Tensor, domain: Tensor) -> Tensor:
        """x (B, tokens, inputs) for robots domain (B,): (B, tokens, outputs)."""
        return x @ self.fc(domain).unflatten(-1, (-1, self.outputs)) + self.bias(domain).unsqueeze(1)


class SoftBlock(nn.Module):
    """Pre-norm layer of the action transformer, without any mask."""

    def __init__(self, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, mlp), "fc2": nn.Linear(mlp, width)})

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, heads, tokens, d) of x (B, tokens, H)."""
        query, key, value = (split_heads(p, self.heads) for p in self.attn["qkv"](self.norm1(x)).chunk(3, -1))
        return query, key, value

    def finish(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The layer's result (B, tokens, H) for its input x and what `project` made of it."""
        x = x + self.attn["proj"](attend_all(query, key, value))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x)), approximate="tanh"))


class SoftTransformer(nn.Module):
    """Action tokens, context and soft prompts in one sequence. `Xvla` runs it."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        sizes, expert = config.xvla, config.expert
        inputs = config.max_action_dim + config.max_state_dim + sizes.time_width
        self.vlm_proj = nn.Linear(config.text.width, expert.width)
        self.aux_visual_proj = nn.Linear(config.text.width, expert.width)
        self.pos_emb = nn.Parameter(torch.zeros(1, sizes.max_length, expert.width))
        self.blocks = nn.ModuleList(SoftBlock(expert.width, sizes.heads, expert.mlp) for _ in range(expert.depth))
        self.norm = nn.LayerNorm(expert.width)
        self.action_encoder = DomainLinear(inputs, expert.width, sizes.domains)
        self.action_decoder = DomainLinear(expert.width, config.max_action_dim, sizes.domains)
        self.soft_prompt_hub = nn.Embedding(sizes.domains, sizes.soft_prompts * expert.width)


class Xvla(nn.Module):
    """The whole policy. Parameter names are LeRobot's up to a prefix (`lerobot_key` in checkpoint.py)."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        if config.xvla is None:
            raise ValueError("expected a configuration with the sizes of X-VLA, got none")
        self.config = config
        self.vision = Davit(config.xvla.davit)
        self.connector = FlorenceProjector(config.xvla.davit, config.text.width)
        self.sampler = build_sampler(config)
        self.language = BartEncoder(config.text, config.xvla.text_positions)
        self.transformer = SoftTransformer(config)
        self.step_size = -1.0 / config.num_steps
        times = torch.tensor([1.0 + i * self.step_size for i in range(config.num_steps)] + [0.0])
        self.register_buffer("time_table", self.embed_time(times), persistent=False)  # (num_steps + 1, time_width)
        self.register_buffer("mean", torch.tensor(_MEAN).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).reshape(3, 1, 1), persistent=False)

    @property
    def pruner(self) -> AbstractPruner | None:
        """The reducer, where it acts inside the action transformer."""
        return self.sampler if isinstance(self.sampler, AbstractPruner) else None

    def embed_time(self, time: Tensor) -> Tensor:
        """Embed flow times (..,) as (.., time_width): cosines, then sines."""
        half = self.config.xvla.time_width // 2
        index = torch.arange(half, dtype=torch.float32, device=time.device)
        angle = time.float().unsqueeze(-1) * torch.exp(-math.log(_TIME_PERIOD) * index / half)
        return torch.cat((angle.cos(), angle.sin()), -1)

    def preprocess(self, frames: Sequence[Tensor]) -> Tensor:
        """Raw uint8 rgb frames, one (B, h, w, 3) per camera, as network images (B, N, 3, H, W), ImageNet-normalised."""
        images = []
        for frame in frames:
            image = frame.movedim(-1, 1).to(torch.float32) / 255.0
            images.append(fit_image((image - self.mean) / self.std, self.config.resize_hw))
        return torch.stack(images, 1)

    def look(self, images: Tensor) -> Tensor:
        """Tokens (B, N, 1 + T, D) of images (B, N, 3, H, W): the mean of each camera's cells, then the cells."""
        return self.connector(self.vision(images.flatten(0, 1))).unflatten(0, images.shape[:2])

    def to_sampler(self, looked: Tensor) -> Tensor:
        """As `SmolVLA.to_sampler`: nothing to do."""
        return looked

    def dense_tokens(self, images: Tensor) -> Tensor:
        """As `look`."""
        return self.look(images)

    def sample_tokens(self, dense: Tensor) -> Sampled:
        """The sampler on the cells of dense tokens (B, N, 1 + T, D); the mean stays in front of the sampled tokens."""
        found: Sampled = self.sampler(dense[:, :, 1:])
        return found._replace(tokens=torch.cat((dense[:, :, :1], found.tokens), 2))

    def embed_context(self, tokens: Tensor, image_mask: Tensor, words: Tensor, domain: Tensor) -> Tensor:
        """Context (B, M, H) of image tokens (B, N, 1 + K, D), image_mask (B, N), words (B, L) and robots (B,).

        Absent cameras up to the number that the checkpoint was trained with are zeros.
        """
        net, config = self.transformer, self.config
        images = tokens * image_mask[:, :, None, None]
        absent = max(0, config.xvla.views - images.shape[1])
        images = F.pad(images, (0, 0, 0, 0, 0, absent))
        encoded = self.language(torch.cat((images[:, 0], self.language.embed_tokens(words)), 1))
        context = torch.cat((net.vlm_proj(encoded), net.aux_visual_proj(images[:, 1:].flatten(1, 2))), 1)
        first = config.chunk_size
        context = context + net.pos_emb[:, first : first + context.shape[1]]
        prompts = net.soft_prompt_hub(domain).unflatten(-1, (config.xvla.soft_prompts, -1))
        return torch.cat((context, prompts), 1)

    def domains(self, batch: int) -> Tensor:
        """The checkpoint's robot for every sample (B,)."""
        return torch.full((batch,), self.config.xvla.domain, dtype=torch.long, device=self.time_table.device)

    def encode(
        self, images: Tensor, image_mask: Tensor, state: Tensor, tokens: Tensor, token_mask: Tensor
    ) -> XvlaCache:
        """Encode one observation; arguments as in `SmolVLA.encode`. token_mask is not used: padding is attended to."""
        return self.encode_dense(self.dense_tokens(images), image_mask, state, tokens, token_mask)

    def encode_dense(
        self, dense: Tensor, image_mask: Tensor, state: Tensor, tokens: Tensor, token_mask: Tensor,
        *, domain: Tensor | None = None,
    ) -> XvlaCache:  # fmt: skip
        """As `encode`, from the result of `dense_tokens`. domain: robots (B,); None: the checkpoint's."""
        del token_mask
        domain = self.domains(len(state)) if domain is None else domain
        sampled = self.sample_tokens(dense)
        retention = retained(self.config, dense[:, :, 1:], sampled.features, training=self.training)
        context = self.embed_context(sampled.tokens, image_mask, tokens, domain)
        proprio = F.pad(state, (0, self.config.max_state_dim - state.shape[-1]))
        return XvlaCache(context, proprio, sampled.coords, retention, domain)

    def predict(self, x_t: Tensor, time_row: Tensor, cache: XvlaCache) -> Tensor:
        """Clean actions (B, S, A) from noisy ones x_t (B, S, A).

        time_row: embedded time, (time_width,) or (B, 1, time_width).
        """
        net, steps, domain = self.transformer, x_t.shape[1], cache.domain
        proprio = cache.proprio.unsqueeze(1).expand(-1, steps, -1)
        time = time_row.expand(len(x_t), steps, -1)
        own = net.action_encoder(torch.cat((x_t, proprio, time), -1), domain) + net.pos_emb[:, :steps]
        x = self.run_blocks(torch.cat((own, cache.context), 1))
        return net.action_decoder(net.norm(x[:, :steps]), domain)

    def run_blocks(self, x: Tensor) -> Tensor:
        """The action transformer on action tokens and context (B, S + M, H); a reducer shortens the context."""
        pruner, found, heads = self.pruner, self.all_tokens(x), None
        for i, block in enumerate(self.transformer.blocks):
            if pruner is not None and (stage := pruner.stage_before(i)):
                found = pruner.prune(stage, found, heads or Heads(*block.project(found.x)[:2], self.head_scale))
            query, key, value = block.project(found.x)
            heads = Heads(query, key, self.head_scale)
            found = found._replace(x=block.finish(found.x, query, key, value))
        return found.x

    @property
    def head_scale(self) -> float:
        """Of the products of queries and keys of the action transformer."""
        return (self.config.expert.width // self.config.xvla.heads) ** -0.5

    def all_tokens(self, x: Tensor) -> Tokens:
        """The sequence (B, S + M, H) as a reducer sees it: nothing is masked, absent cameras are there as zeros."""
        config, (batch, length) = self.config, x.shape[:2]
        first, each = config.chunk_size, config.image_tokens
        cameras = max(config.xvla.views, len(config.image_keys))
        words = length - first - cameras * (1 + each) - config.xvla.soft_prompts
        starts = [first + 1] + [first + words + n * (1 + each) + 1 for n in range(1, cameras)]
        layout = Layout(tuple((start, each) for start in starts), (first + 1 + each, words), 0, length)
        real = torch.ones(batch, length, dtype=torch.bool, device=x.device)
        cells = tuple(torch.arange(each, device=x.device).expand(batch, -1) for _ in starts)
        where = torch.arange(length, dtype=torch.float32, device=x.device).expand(batch, -1)
        judges = real[:, :words]
        found = Tokens(x, real, where, real.unsqueeze(1).expand(-1, length, -1), cells, judges, layout)
        return found if self.pruner is None else self.pruner.begin(found)

    def sample(
        self, noise: Tensor, cache: XvlaCache,
        committed: Tensor | None = None, n_committed: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Actions (B, S, A) from noise whose last A columns (B, S, A) are used, in num_steps steps.

        The first n_committed (B,) steps of committed (B, S, A) replace the result; the network is not trained for more.
        """
        noise = noise[..., -self.config.max_action_dim :]
        actions = torch.zeros_like(noise)
        for i in range(self.config.num_steps):
            time = 1.0 + i * self.step_size
            actions = self.predict(noise * time + actions * (1 - time), self.time_table[i], cache)
        return keep_committed(actions, committed, n_committed)
