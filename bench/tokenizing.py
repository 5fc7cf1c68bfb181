"""Tokenising with a network of the published size: `encode` against the plain loop, which pads all jets to 128 slots, searches the codes of all of them and decodes: `python bench/tokenize.py [--rounds 9] [--jets 256] [--quick] [--device cuda]`

Same weights, same codes (the share that agrees is printed). CPU time on one thread, rounds in turn; on a GPU the time of the clock after synchronising, with more jets, and whether codes are those of the CPU. What a hundred million jets would take is worked out from the rates and from a file that is written.
"""
import argparse, copy, os, platform, tempfile, time
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, torch
from generate import seconds
from hepebm.data.samples import sample
from hepebm.tokens.token_files import write_tokens
from hepebm.tokens.tokenizer import JetTokenizer, agreement

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

def agree(tok, jets):
    "Lines on codes of the CPU and of the GPU"
    for dtype in (torch.float64, torch.float32):
        a = agreement(copy.deepcopy(tok).cpu().to(dtype), copy.deepcopy(tok).to('cuda', dtype), jets)
        yield f'- {str(dtype)[6:]}: {a.share:.5%} of the codes of CPU and GPU agree ({1-a.share:.1e} do not, {"all ties" if a.tied else "NOT ALL TIES"}: distances differ by {a.gap:.1e} at most, latents by {a.rounding:.1e}, of a length of {a.size:.2g})'

def hundred_million(tok, jets, rate):
    "A line on the size and time of a hundred million jets"
    t, n, times = tok.encode(jets), 100_000_000, 10
    with tempfile.TemporaryDirectory() as d:
        write_tokens(f'{d}/t.parquet', t)
        begun = time.process_time()
        for _ in range(times): write_tokens(f'{d}/t.parquet', t)
        write, size = (time.process_time()-begun)/times/len(t), os.path.getsize(f'{d}/t.parquet')/len(t)
    return f'- 100 million jets: {n*size/1e9:.1f} GB ({size:.0f} bytes a jet, with {len(t.jets.keys())} columns beside the codes; {size*len(t)/t.mask.sum().item():.2f} a particle), {n/rate/3600:,.1f} h to encode at the rate above, {n*write/3600:.2f} h of CPU time to write (extrapolated from a file of {len(t):,} jets)'

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rounds', type=int, default=9); p.add_argument('--jets', type=int, help='256, or 4,096 on a GPU'); p.add_argument('--quick', action='store_true'); p.add_argument('--device', default='cpu')
    a = p.parse_args()
    if a.quick: a.rounds, a.jets = 2, 64
    a.jets = a.jets or (4096 if a.device=='cuda' else 256)
    torch.set_num_threads(1); torch.manual_seed(0)
    cuda, jets = a.device=='cuda', sample('jets', 'train', a.jets)
    tok = JetTokenizer(R=1.).to(a.device).eval()
    rows = tok.columns(jets)
    with torch.no_grad(): tok.quantizer.fit(tok.encoder(rows.x.to(a.device), rows.mask.to(a.device)), rows.mask.to(a.device), rounds=1)
    wide = rows.assign(x=torch.nn.functional.pad(rows.x, (0,0,0,SLOTS-rows.x.shape[1])), mask=torch.nn.functional.pad(rows.mask, (0,SLOTS-rows.mask.shape[1]))).to(a.device)
    ways = {'plain loop': lambda: plain(tok, wide), 'encode': lambda: tok.encode(wide, 256 if not cuda else 1024)}
    same = (plain(tok, wide)==tok.encode(wide).ids)[wide.mask].double().mean().item()
    t = {k: [] for k in ways}
    for _ in range(a.rounds):
        for k,f in ways.items(): t[k].append(seconds(f, cuda))
    device = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    print(f'torch {torch.__version__}, {device}, {"" if cuda else "one thread, "}{a.rounds} rounds, {len(rows):,} jets of {wide.mask.sum().item()/len(rows):.1f} particles in {SLOTS} slots, {tok.codes:,} codes; {same:.4%} of the codes agree\n\n| | jets a second | ratio |\n|---|---|---|')
    for k,v in t.items():
        r = np.quantile(np.array(t['plain loop'])/v, (.16,.5,.84))
        print(f'| {k} | {len(rows)/np.median(v):,.0f} | {r[1]:.2f} [{r[0]:.2f}, {r[2]:.2f}] |')
    print()
    if cuda: print(*agree(tok, jets[:1000]), sep='\n')
    print(hundred_million(tok, sample('jets', 'train', 200 if a.quick else 2000), len(rows)/np.median(t['encode'])))

if __name__=='__main__': main()
