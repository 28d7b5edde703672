#!/usr/bin/env python3
"""Tokens per second of a Llama's shapes in bf16 through PyTorch with a CUDA graph.

Batch 1, random weights, a static cache in bf16; q, k, v and gate, up are one product each. One
graph holds a whole token: embedding, layers, head and argmax. The median of --repeat runs of
--tokens tokens each, after --context positions. Also the time of the matrix products alone.

    benchmarks/peers/torch_decode.py --shape 8b --context 64 --tokens 64 --json -

With --compile, torch.compile fuses what lies between the products and chooses kernels by timing.
"""

import argparse
import json
import statistics
import sys

import torch
import torch.nn.functional as F

# hidden, intermediate, layers, heads, KV heads, head dimension
SHAPES = {"1b": (2048, 8192, 16, 32, 8, 64), "8b": (4096, 14336, 32, 32, 8, 128)}
VOCABULARY = 128256


class Model:
    def __init__(self, shape: str, positions: int):
        self.hidden, wide, layers, self.heads, self.kv_heads, self.dim = SHAPES[shape]
        self.q, self.kv = self.heads * self.dim, self.kv_heads * self.dim

        def matrix(rows, columns):
            return torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16) / columns**0.5

        self.embedding = torch.randn(VOCABULARY, self.hidden, device="cuda", dtype=torch.bfloat16)
        self.head = matrix(VOCABULARY, self.hidden)
        self.layers = [
            (
                matrix(self.q + 2 * self.kv, self.hidden),
                matrix(self.hidden, self.q),
                matrix(2 * wide, self.hidden),
                matrix(self.hidden, wide),
                torch.zeros(2, self.kv_heads, positions, self.dim, device="cuda",
                            dtype=torch.bfloat16),
            )
            for _ in range(layers)
        ]
        self.norm = torch.ones(self.hidden, device="cuda", dtype=torch.bfloat16)
        angles = torch.outer(
            torch.arange(positions, device="cuda"),
            500000.0 ** (-torch.arange(0, self.dim, 2, device="cuda") / self.dim),
        )
        self.cosines, self.sines = torch.cos(angles).bfloat16(), torch.sin(angles).bfloat16()
        self.columns = torch.arange(positions, device="cuda")

    def rope(self, x, position):
        cosine = self.cosines.index_select(0, position)
        sine = self.sines.index_select(0, position)
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cosine - b * sine, b * cosine + a * sine), dim=-1)

    def token(self, token, position):
        """The next token after `token` ([1]) at `position` ([1])."""
        x = self.embedding.index_select(0, token)
        seen = (self.columns <= position)[None, None]
        for qkv, o, gate_up, down, cache in self.layers:
            y = F.linear(F.rms_norm(x, (self.hidden,), self.norm), qkv)
            q, k, v = y.split((self.q, self.kv, self.kv), dim=-1)
            q = self.rope(q.view(self.heads, self.dim), position)
            k = self.rope(k.view(self.kv_heads, self.dim), position)
            cache[0].index_copy_(1, position, k[:, None])
            cache[1].index_copy_(1, position, v.view(self.kv_heads, 1, self.dim))
            y = F.scaled_dot_product_attention(
                q.view(1, self.heads, 1, self.dim), cache[0][None], cache[1][None],
                attn_mask=seen, enable_gqa=True,
            )
            x = x + F.linear(y.reshape(1, self.q), o)
            gate, up = F.linear(F.rms_norm(x, (self.hidden,), self.norm), gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, down)
        logits = F.linear(F.rms_norm(x, (self.hidden,), self.norm), self.head)
        return logits.argmax(dim=-1)

    def products(self, x, wide):
        for qkv, o, gate_up, down, _ in self.layers:
            F.linear(x, qkv), F.linear(x, o), F.linear(x, gate_up), F.linear(wide, down)
        return F.linear(x, self.head)


def record(body):
    """A graph of body(), after three runs that warm up."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            body()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph


def milliseconds(body):
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    body()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    parser.add_argument("--json", help="file for the numbers (-: standard output)")
    args = parser.parse_args()

    with torch.inference_mode():
        model = Model(args.shape, args.context + args.tokens)
        token = torch.zeros(1, dtype=torch.long, device="cuda")
        position = torch.zeros(1, dtype=torch.long, device="cuda")

        next_token = model.token
        if args.compile:
            next_token = torch.compile(
                model.token, mode="max-autotune-no-cudagraphs", fullgraph=True)

        def step():
            token.copy_(next_token(token, position))
            position.add_(1)

        position.fill_(args.context)
        graph = record(step)
        times = []
        for _ in range(args.repeat):
            position.fill_(args.context)
            times.append(milliseconds(lambda: [graph.replay() for _ in range(args.tokens)]))
        x = torch.randn(1, model.hidden, device="cuda", dtype=torch.bfloat16)
        wide = torch.randn(1, SHAPES[args.shape][1], device="cuda", dtype=torch.bfloat16)
        products = record(lambda: model.products(x, wide))
        alone = [milliseconds(products.replay) for _ in range(args.repeat)]
    result = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "compiled": args.compile,
        "shape": args.shape,
        "context": args.context,
        "tokens_per_s": 1e3 * args.tokens / statistics.median(times),
        "products_ms": statistics.median(alone),
    }
    name = f"{args.shape} in bf16{', compiled' * args.compile}"
    print(f"{result['device']}, {name}: {result['tokens_per_s']:.1f} tokens/s; "
          f"products alone {result['products_ms']:.3f} ms a token",
          file=sys.stderr if args.json == "-" else sys.stdout)
    if args.json == "-":
        print(json.dumps(result))
    elif args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(result, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
