"""Writing jets with a transformer of the published size: `generate` and `write` against the plain loop that reads the whole prefix for each id: `python bench/generate.py [--rounds 9] [--batch 64] [--quick] [--device cuda]`

The plain loop is written out below as the published one works: attention with its matrices, the head at every position, always 128 steps, softmax over all ids but the start, multinomial. A whole run of it takes minutes, so it is
timed at one random prefix length in each of 8 equal parts of 1..128, the same in a round for all loops without a cache, and summed over the parts: unbiased, and its spread is in the ratios.
CPU time on one thread, rounds in turn; on a GPU the time of the clock after synchronising, with ids a second and the share of the memory's bandwidth that a large copy reaches.
"""
import argparse, os, platform, time
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, torch
from hepebm.data.samples import sample
from hepebm.nn.gpt import GPT, GPTConfig, cached_equals_full, generate, write

VOCAB, STEPS, START, STOP = 8194, 128, 0, 8193

class Plain(torch.nn.Module):
    "The published network as it is written there, with the weights of `gpt`"
    def __init__(self, gpt):
        super().__init__()
        self.gpt, self.heads = gpt, gpt.config.heads
        self.register_buffer('tril', torch.ones(STEPS+1, STEPS+1, device=gpt.head.weight.device).tril())
    def attention(self, a, x):
        B,T,C = x.shape
        q,k,v = (torch.nn.functional.linear(x, w).view(B, T, self.heads, -1).transpose(1,2) for w in a.qkv.weight.chunk(3))
        w = q@k.transpose(-2,-1)*(C//self.heads)**-.5
        w = w.masked_fill(self.tril[:T,:T]==0, float('-inf')).softmax(-1)
        return a.proj((w@v).transpose(1,2).reshape(B, T, C))
    def forward(self, tokens):
        x = self.gpt.embed(tokens)
        for b in self.gpt.blocks:
            x = b.norm1(self.attention(b.attention, x)+x)
            x = b.norm2(b.mlp(x)+x)
        return self.gpt.head(x)

class Stopping(GPT):
    "Stops at position t with the probability that jets of t particles do, among those that have so many"
    def plan(self, counts):
        n = torch.bincount(counts.clamp(max=STEPS-1)+1, minlength=STEPS+2)[:STEPS+2].double()
        hazard = (n/n.flip(0).cumsum(0).flip(0).clamp(min=1)).clamp(1e-9, 1-1e-9)
        with torch.no_grad(): whole = self(torch.zeros(1, 1, dtype=torch.long, device=self.head.weight.device))[0,0,:-1].logsumexp(0)
        self.stops = (hazard.logit().to(whole)+whole)
    def step(self, tokens, cache, *a, **kw):
        logits = super().step(tokens, cache, *a, **kw)
        logits[:,STOP] = self.stops[cache.at]
        return logits

def one_step(logits, tokens):
    "What the plain loop does with the logits of all positions"
    p = logits[:,-1,1:].softmax(-1)
    return torch.cat([tokens, torch.multinomial(p, 1)+1], 1)

def seconds(f, cuda):
    if cuda: torch.cuda.synchronize()
    clock = time.perf_counter if cuda else time.process_time
    t = clock()
    f()
    if cuda: torch.cuda.synchronize()
    return clock()-t

def prefixes(step, lengths, prompt, cuda):
    "Time of all 128 steps, from a prefix length in each part"
    with torch.inference_mode(): return STEPS/len(lengths)*sum(seconds(lambda: step(prompt[:,:t]), cuda) for t in lengths)

def bandwidth(device, size=2**28):
    "Bytes a second of a large copy, read and written"
    a = torch.empty(size, device=device); b = torch.empty_like(a)
    return max(2*4*size/seconds(lambda: b.copy_(a), True) for _ in range(10))

def limit(gpt, batch, bytes_s):
    "Least seconds in which memory gives the weights and the average cache, for 128 steps"
    c, weights = gpt.config, sum(p.numel() for p in gpt.parameters())-gpt.embed.weight.numel()
    return STEPS*4*(weights+c.depth*2*batch*c.width*(STEPS+1)/2)/bytes_s

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rounds', type=int, default=9); p.add_argument('--batch', type=int, default=64); p.add_argument('--quick', action='store_true'); p.add_argument('--device', default='cpu')
    a = p.parse_args()
    torch.set_num_threads(1)
    cuda, rounds, B, parts = a.device.startswith('cuda'), 2 if a.quick else a.rounds, 16 if a.quick else a.batch, 2 if a.quick else 8
    torch.manual_seed(0)
    gpt = GPT(GPTConfig.published(VOCAB, length=STEPS+1)).to(a.device).eval()
    plain, stopping = Plain(gpt), Stopping(gpt.config).to(a.device).eval()
    stopping.load_state_dict(gpt.state_dict())
    stopping.plan(sample('jets', 'train').mask.sum(1).to(a.device))
    start, prompt = torch.zeros(B, dtype=torch.long, device=a.device), torch.randint(1, VOCAB-1, (B, STEPS), device=a.device)
    with torch.inference_mode(): apart = (plain(prompt[:4,:40])-gpt(prompt[:4,:40])).abs().max().item()
    assert apart < 1e-4, f'the plain network differs by {apart}'
    jets = 2*B if a.quick else 8*B
    ids = write(stopping, jets, START, STOP, batch=B, seed=0, forbidden=[START], bar=None)
    lengths = (ids!=STOP).sum(1).double()
    loops = {'plain loop, as published': lambda t: one_step(plain(t), t), 'plain loop, fused attention': lambda t: one_step(gpt(t), t), 'fused attention, head at the last position': lambda t: one_step(gpt.head(gpt.hidden(t)[:,-1:]), t)}
    ways = {f'`generate`, {STEPS} ids a jet': (lambda: generate(gpt, start, seed=0, forbidden=[START]), B), f'`write`, {lengths.mean():.0f} +- {lengths.std():.0f} ids a jet': (lambda: write(stopping, jets, START, STOP, batch=B, seed=0, forbidden=[START], bar=None), jets)}
    t, g = {k: [] for k in (*loops, *ways)}, np.random.default_rng(0)
    for f,_ in ways.values(): f()
    for r in range(rounds):
        at = [int(g.integers(STEPS*i//parts, STEPS*(i+1)//parts))+1 for i in range(parts)]
        for k,f in loops.items(): t[k].append(prefixes(f, at, prompt, cuda)/B)
        for k,(f,n) in ways.items(): t[k].append(seconds(f, cuda)/n)
    where = torch.cuda.get_device_name(a.device) if cuda else f'{platform.processor() or platform.machine()}, one thread'
    print(f'torch {torch.__version__}, Python {platform.python_version()}, {where}, {rounds} rounds, batch {B}; {sum(p.numel() for p in gpt.parameters()):,} parameters, vocabulary {VOCAB:,}\n')
    print('| | ms a jet | ids a second | plain loop / this |\n|---|---|---|---|')
    first = np.array(t['plain loop, as published'])
    for k,v in t.items():
        q, n = np.quantile(first/np.array(v), (.5,.16,.84)), lengths.mean().item() if 'write' in k else STEPS
        print(f'| {k} | {1000*np.median(v):.4g} | {n/np.median(v):,.0f} | {q[0]:.1f} [{q[1]:.1f}, {q[2]:.1f}] |')
    print(f'\nLargest difference of logits with and without cache: {cached_equals_full(gpt.double(), prompt[:8]):.0e} in float64; of the plain network and ours {apart:.0e} in float32')
    if cuda: report(gpt.float(), a.device, (B, 16*B))

def report(gpt, device, batches):
    "Ids a second and the share of what memory allows"
    rate = bandwidth(device)
    print(f'\nA large copy: {rate/1e9:,.0f} GB/s\n\n| batch | ids a second | share of the bandwidth limit |\n|---|---|---|')
    for B in batches:
        f = lambda: generate(gpt, torch.zeros(B, dtype=torch.long, device=device), seed=0, forbidden=[START])
        f()
        s = np.median([seconds(f, True) for _ in range(5)])
        print(f'| {B} | {STEPS*B/s:,.0f} | {limit(gpt, B, rate)/s:.1%} |')

if __name__=='__main__': main()
