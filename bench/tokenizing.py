"""Tokenising with a network of the published size: `encode` against the plain loop, which pads all jets to 128 slots, searches the codes of all of them and decodes: `python bench/tokenize.py [--rounds 9] [--jets 256] [--quick] [--device cuda]`

Same weights, same codes (the share that agrees is printed). CPU time on one thread, rounds in turn; on a GPU the time of the clock after synchronising.
"""
import argparse, os, platform, time
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, torch
from hepebm.data.samples import sample
from hepebm.tokens.tokenizer import JetTokenizer

SLOTS = 128

@torch.no_grad()
def plain(tok, rows, size=64):
    "As published: padded batches, distances in chunks of 1,024, the decoder for codes that nobody asked to decode"
    out = []
    for i in range(0, len(rows), size):
        x, mask = rows.x[i:i+size], rows.mask[i:i+size]
        z = tok.encoder(x, mask)*mask[...,None]
        ids = torch.cat([torch.cdist(v, tok.quantizer.codebook).argmin(1) for v in z.flatten(0, 1).split(1024)]).view(mask.shape)
        tok.decoder(tok.quantizer.codebook[ids]*mask[...,None], mask)
        out.append(ids)
    return torch.cat(out)

def seconds(f, cuda):
    if cuda: torch.cuda.synchronize()
    clock = time.perf_counter if cuda else time.process_time
    t = clock()
    f()
    if cuda: torch.cuda.synchronize()
    return clock()-t

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rounds', type=int, default=9); p.add_argument('--jets', type=int, default=256); p.add_argument('--quick', action='store_true'); p.add_argument('--device', default='cpu')
    a = p.parse_args()
    if a.quick: a.rounds, a.jets = 2, 64
    torch.set_num_threads(1); torch.manual_seed(0)
    cuda, jets = a.device=='cuda', sample('jets', 'train', a.jets)
    tok = JetTokenizer(R=1.).to(a.device).eval()
    rows = tok.columns(jets)
    with torch.no_grad(): tok.quantizer.fit(tok.encoder(rows.x.to(a.device), rows.mask.to(a.device)), rows.mask.to(a.device), rounds=1)
    wide = rows.assign(x=torch.nn.functional.pad(rows.x, (0,0,0,SLOTS-rows.x.shape[1])), mask=torch.nn.functional.pad(rows.mask, (0,SLOTS-rows.mask.shape[1]))).to(a.device)
    ways = {'plain loop': lambda: plain(tok, wide), 'encode': lambda: tok.encode(wide)}
    same = (plain(tok, wide)==tok.encode(wide).ids.to(a.device))[wide.mask].double().mean().item()
    t = {k: [] for k in ways}
    for _ in range(a.rounds):
        for k,f in ways.items(): t[k].append(seconds(f, cuda))
    device = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    print(f'torch {torch.__version__}, {device}, {"" if cuda else "one thread, "}{a.rounds} rounds, {len(rows):,} jets of {wide.mask.sum().item()/len(rows):.1f} particles in {SLOTS} slots, {tok.codes:,} codes; {same:.4%} of the codes agree\n\n| | jets a second | ratio |\n|---|---|---|')
    for k,v in t.items():
        r = np.quantile(np.array(t['plain loop'])/v, (.16,.5,.84))
        print(f'| {k} | {len(rows)/np.median(v):,.0f} | {r[1]:.2f} [{r[0]:.2f}, {r[2]:.2f}] |')

if __name__=='__main__': main()
