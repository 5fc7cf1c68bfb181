"Tokenizers beyond the notebook: empty batches, several processes, devices, what the report says, bad input"
import copy, os, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from hepebm.core.arrays import Arrays
from hepebm.data.samples import sample
from hepebm.tokens.quantizers import particle_mean
from hepebm.tokens.tokenizer import Buckets, JetTokenizer, agreement, columns, jet_tokenizer, reconstruction

root = Path(__file__).resolve().parent.parent

@pytest.fixture(scope='module')
def jets(): return sample('jets', 'train', 300)

def small(kind='vqvae', codes=64, **kw):
    torch.manual_seed(0)
    return JetTokenizer(kind, codes, R=1., width=16, depth=1, heads=2, **kw)

def started(jets, **kw):
    "A network with its codebook where its latents are"
    tok = small(**kw)
    rows = tok.columns(jets)
    with torch.no_grad(): tok.quantizer.fit(tok._inside(rows), rows.mask, rounds=3)
    return tok

# ---- losses

@pytest.mark.parametrize('kind', ['vqvae','fsq','mlp'])
@pytest.mark.parametrize('slots', [0, 5])
def test_a_batch_of_empty_jets(jets, kind, slots):
    "Only empty jets: the loss is 0 and so is its gradient, before the codebook starts and after"
    tok = small(kind, 512, extended=True).train()
    a = jets[:6].assign(mask=jets.mask[:6] & False)
    rows = columns(a, R=1., extended=True)
    assert rows.x.shape[1]==0
    pad = lambda v: torch.nn.functional.pad(v, (0,)*(2*(v.ndim-2)) + (0,slots))
    rows = rows.assign(**{k: pad(rows[k]) for k in ('x','mask','kind')})
    for start in (False, True):
        if start and kind!='fsq':
            full = tok.columns(jets)
            with torch.no_grad(): tok.quantizer.fit(tok._inside(full), full.mask, rounds=1)
        terms = reconstruction()(tok, rows)
        sum(terms.values()).backward()
        assert all(v==0 for v in terms.values())
        assert all((p.grad==0).all() for p in tok.parameters() if p.grad is not None)

def test_training_on_batches_of_empty_jets(jets):
    "Sorting by length collects empty jets in batches of their own; training goes on"
    a = jets[:64].assign(mask=jets.mask[:64].clone())
    a.mask[:20] = False
    tok = jet_tokenizer(a, codes=16, R=1., width=16, depth=1, heads=2, epochs=2, size=8, bar=None)
    assert any(not b.mask.any() for b in Buckets(tok.columns(a)).batches(8, shuffle=True, seed=0))
    assert all(p.isfinite().all() for p in tok.parameters())

def test_particle_mean():
    "Of particles under the mask, whatever stands in the padding; without any it is 0"
    x = torch.tensor([[1.,2.,float('nan')],[5.,float('inf'),0.]], requires_grad=True)
    mask = torch.tensor([[True,True,False],[True,False,False]])
    m = particle_mean(x, mask)
    m.backward()
    assert m==8/3 and torch.equal(x.grad, mask/3.)
    assert particle_mean(x, mask & False)==0

SCRIPT = '''
import sys, torch, torch.distributed as dist
from hepebm.data.samples import sample
from hepebm.tokens.tokenizer import JetTokenizer, reconstruction
rank, world, out, cut = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
if world>1: dist.init_process_group('gloo', init_method=f'file://{out}/meet{cut}', rank=rank, world_size=world)
torch.manual_seed(0)
tok = JetTokenizer('vqvae', 32, R=1., width=16, depth=1, heads=2, extended=True, quantizer=None).double().train()
a = sample('jets', 'train', 12).to(torch.float64)
a = a[a.mask.sum(1).argsort()]                       # short jets go to one process, long ones to the other
a = a.assign(mask=a.mask & (torch.arange(12)>1)[:,None])
rows = tok.columns(a)
lo, hi = (0, 12) if world==1 else ((0, cut), (cut, 12))[rank]
terms = reconstruction()(tok, rows[lo:hi])
weight = (hi-lo)*world/12                            # as `fit` weighs the processes
(sum(terms.values())*weight).backward()
grads = {k: p.grad for k,p in tok.named_parameters() if p.grad is not None}
for g in grads.values():
    if world>1: dist.all_reduce(g); g /= world
torch.save(dict(grads=grads, codebook=tok.quantizer.codebook), f'{out}/{world}-{cut}-{rank}.pt')
'''

@pytest.mark.parametrize('cut', [6, 4, 2])
def test_two_processes_are_one(tmp_path, cut):
    "Gradients of two unequal parts, averaged, are those of the whole; with a cut at 2 one process has empty jets only"
    (tmp_path/'script.py').write_text(SCRIPT)
    env = dict(os.environ, PYTHONPATH=str(root), OMP_NUM_THREADS='1')
    for world in (1, 2):
        ps = [subprocess.Popen([sys.executable, 'script.py', str(r), str(world), str(tmp_path), str(cut)], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) for r in range(world)]
        errors = [p.communicate()[1] for p in ps]
        assert not any(p.returncode for p in ps), errors
    one, = (torch.load(p) for p in tmp_path.glob('1-*.pt'))
    for p in tmp_path.glob('2-*.pt'):
        two = torch.load(p)
        torch.testing.assert_close(two['codebook'], one['codebook'], rtol=0, atol=1e-12)
        for k,g in one['grads'].items(): torch.testing.assert_close(two['grads'][k], g, rtol=1e-9, atol=1e-12, msg=k)

# ---- codes

def test_agreement_sees_a_wrong_search(jets, monkeypatch):
    "A search that takes the second best for some particles is no tie"
    from hepebm.tokens import quantizers
    tok = started(jets).eval()
    good = agreement(tok, copy.deepcopy(tok).double(), jets)
    assert good.share>.999 and good.tied and good.rounding<1e-5*good.size
    def second(z, codes, size=None):
        d = torch.cdist(z.double(), codes.double()).argsort(1)
        return torch.where(torch.arange(len(z))%50==0, d[:,1], d[:,0]) if z.dtype==torch.float32 else d[:,0]
    monkeypatch.setattr(quantizers, 'nearest', second)
    bad = agreement(tok, copy.deepcopy(tok).double(), jets)
    assert .97<bad.share<.99 and not bad.tied

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
@pytest.mark.parametrize('kw', [{}, dict(kind='mlp'), dict(extended=True)])
def test_codes_on_a_gpu(jets, kw):
    "Identical in double precision; in single all but ties"
    tok = started(jets, codes=2048, **kw).eval()
    double = copy.deepcopy(tok).double()
    a = jets.to(torch.float64)
    t, u = double.encode(a), copy.deepcopy(double).cuda().encode(a.to('cuda'))
    assert u.ids.is_cuda and torch.equal(t.ids, u.ids.cpu())
    assert agreement(double, copy.deepcopy(double).cuda(), jets).share==1
    single = agreement(tok, copy.deepcopy(tok).cuda(), jets)
    assert single.share>.999 and single.tied and single.rounding<1e-4*single.size

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
@pytest.mark.parametrize('kind', ['vqvae','fsq','bins'])
def test_everything_with_arrays_on_a_gpu(jets, kind):
    "Train, encode, decode, report, check: jets on the GPU, the model there or on the CPU"
    from hepebm.tokens.tokenizer import check_tokenizer
    gpu = jets.to('cuda')
    tok = jet_tokenizer(gpu, kind, 512, R=1., bar=None, **({} if kind=='bins' else dict(width=16, depth=1, heads=2, epochs=1)))
    for home in ('cpu','cuda'):
        tok = tok.to(home)
        for a in (jets, gpu):
            t = tok.encode(a)
            assert t.ids.device==t.jets.jet_pt.device==a.p4.device and tok.decode(t).p4.device==a.p4.device
            assert tok.decode(t.to('cpu')).p4.is_cpu and tok.decode(t.to('cuda')).p4.is_cuda
            check_tokenizer(tok, a[:40])
            assert np.isfinite(tok.report(a).error).all()

def test_arrays_of_other_features_are_jets(jets):
    "An `x` of a reader beside the four-vectors is not taken for a tokenizer's rows"
    tok = started(jets).eval()
    assert torch.equal(tok.encode(jets.assign(x=torch.zeros(*jets.mask.shape, 3))).ids, tok.encode(jets).ids)

def test_a_failed_decoding_leaves_the_mode(jets):
    tok = started(jets).train()
    t = tok.eval().encode(jets[:5])
    t.ids[0,0] = 999
    tok.train()
    with pytest.raises(ValueError, match='999'): tok.decode(t)
    assert tok.training

# ---- report and input

def test_report_of_displacements(jets):
    "Known shifts of d0 and dz of tracks come out as such, in mm; those of neutral particles do not count"
    tok = started(jets, extended=True).eval()
    rows = tok.columns(jets)
    track = rows.mask & (rows.kind%3!=1)
    mm = lambda j: .1*(3*rows.x[...,j]).sinh()
    real = tok.decode
    tok.decode = lambda t: real(t).assign(d0=torch.where(track, mm(3)+.05, 99.), dz=torch.where(track, mm(4)-.2, 99.))
    r = tok.report(jets)
    assert r.loc['track d0', ['median','low','high','error','w1']].tolist()==pytest.approx([.05]*5, abs=1e-4)
    assert r.loc['track dz', ['median','error']].tolist()==pytest.approx([-.2,.2], abs=1e-3)

def test_bad_input(jets):
    tok = started(jets, extended=True).eval()
    for a,contains in ((jets.drop('d0'), 'no d0'), (jets.drop('d0','pid'), 'no pid, d0'), (jets.assign(pid=jets.pid*211), 'not PDG codes'), (jets.assign(charge=jets.charge*2), 'charge of particles goes from -2 to 2')):
        with pytest.raises(ValueError, match=contains): tok.encode(a)
    with pytest.raises(ValueError, match='FSQ'): agreement(small('fsq', 512), small('fsq', 512), jets)
    with pytest.raises(ValueError, match='no jets'): tok.encode(jets[:0])

def test_mass_in_mixed_precision(jets):
    "Half of the digits are enough for attention, but not for the mass of a jet"
    torch.manual_seed(0)
    tok = JetTokenizer(codes=64, R=1., width=16, depth=1, heads=2).eval()
    rows = tok.columns(jets[:60])
    tok.quantizer.fit(tok.encoder(rows.x, rows.mask).detach(), rows.mask)
    with torch.no_grad():
        full = reconstruction()(tok, rows)
        with torch.autocast('cpu', torch.bfloat16): half, y = reconstruction()(tok, rows), tok(rows)[0]
    assert y.dtype==torch.float32
    for k,v in full.items(): assert half[k].item()==pytest.approx(v.item(), rel=.05, abs=1e-3), k

def test_a_momentum_that_is_none(jets):
    "One particle without a number must not make a jet look plain"
    p4 = jets.p4[:5].clone()
    p4[3,0,1] = float('nan')
    with pytest.raises(ValueError, match='jet 3 has a particle'): JetTokenizer('fsq', 512, R=1., width=16, depth=1, heads=2).encode(Arrays(p4=p4, mask=jets.mask[:5]))
    p4[3,0,1], p4[2,~jets.mask[2]] = 1., float('nan')
    columns(Arrays(p4=p4, mask=jets.mask[:5]), 64, 1.)  # what stands in the padding is nobody's business
    with pytest.raises(TypeError, match='Arrays'): JetTokenizer('fsq', 512, R=1., width=16, depth=1, heads=2).encode(p4)
