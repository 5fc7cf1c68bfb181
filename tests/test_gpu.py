"""A GPU gives what the CPU gives: the same numbers where nothing is drawn, working training where it is. Skipped where there is none; `bench/gpu.sh` runs it.

`HEPEBM_TEST_DEVICE=cpu` tries the tests themselves.
"""
import copy, math, os
from itertools import islice
import pytest, torch
from functools import partial
from hepebm.core.arrays import Arrays
from hepebm.core.training import Task, adam, fit
from hepebm.data.samples import sample
from hepebm.data.toys import toys
from hepebm.ebm.jets import jet_ebm, sample_jets
from hepebm.ebm.objectives import MLE, NCE, NormalNoise, denoising_sm
from hepebm.ebm.samplers import chain, hmc, langevin, mala, start
from hepebm.nn.efps import efp_bank, graphs
from hepebm.ebm.energies import MLPEnergy
from hepebm.nn.ensembles import fit_ensemble
from hepebm.nn.sets import mlp
from hepebm.tokens.generation import critic, jet_gpt, next_and_masked, rerank
from hepebm.tokens.tokenizer import JetTokenizer
from hepebm.tokens.transfer import Classifier, fresh, train_classifier
from hepebm.vae.vae import jet_vae

device = os.environ.get('HEPEBM_TEST_DEVICE', 'cuda')
pytestmark = pytest.mark.skipif(device=='cuda' and not torch.cuda.is_available(), reason='no GPU')

@pytest.fixture(scope='module')
def jets(): return sample('jets', 'train', 300)

def on(m): return copy.deepcopy(m).to(device)
def same(a, b, tol=1e-10): torch.testing.assert_close(a.cpu(), b.cpu(), rtol=tol, atol=tol)

# ---- numbers

def test_efps(jets):
    a = jets[:20]
    x = a.p4.double()
    pt, angles = x[...,1:3].norm(dim=-1), torch.randn(*a.mask.shape, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))*.3
    f = lambda d: efp_bank(pt.to(d), angles.to(d), a.mask.to(d), graphs(5))
    same(f(device), f('cpu'))

@pytest.mark.parametrize('objective', [lambda x: NCE(NormalNoise(x)), lambda x: denoising_sm(.3), lambda x: MLE(partial(mala, step=.1), n=3, accept=.6)], ids=['NCE','denoising','steered'])
def test_energies_learn(objective):
    torch.manual_seed(0)
    E, a = MLPEnergy(), Arrays(x=toys['8gaussians'].sample(1000, 0).float())
    log = fit(Task(E, objective(a.x), adam(1e-3)), a, epochs=8, accelerator='gpu' if device=='cuda' else 'cpu', bar=None)
    assert log.loss[-1] < log.loss[0]

@pytest.mark.parametrize('kernel', [partial(langevin, step=.01), partial(mala, step=.1), partial(hmc, step=.2, leaps=4)], ids=['langevin','mala','hmc'])
def test_chains(kernel):
    "Normal variables keep their moments"
    E = lambda x: x.square().sum(-1)/2
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)).to(device)
    for s in islice(chain(kernel(E), start(E, x, 0)), 60): pass
    assert s.x.device.type==device and s.x.mean().abs()<.06 and abs(s.x.std()-1)<.05

def test_jets_of_an_energy(jets):
    E = jet_ebm(jets[jets.label==0], updates=3, warm=5, pool=32, size=16, last=2, width=16, depth=1, heads=2, bar=None)
    here = on(E)
    made = sample_jets(here, 10, steps=3)
    assert len(made)==10 and made.p4.isfinite().all()
    same(here.score(jets[:40]), E.cpu().score(jets[:40]), 1e-3)

def test_autoencoder(jets):
    m = jet_vae(jets[jets.label==0], epochs=2, width=16, bar=None).cpu()
    same(on(m).score(jets[:50]), m.score(jets[:50]), 1e-3)

def test_ensembles_together():
    g = torch.Generator().manual_seed(0)
    a = Arrays(x=torch.randn(600, 5, generator=g, dtype=torch.float64), label=torch.arange(600)%2)
    make = lambda: mlp(5, 16, 16, 1)
    same(fit_ensemble(make, a.to(device), 4, epochs=3)(a.x.to(device)), fit_ensemble(make, a, 4, epochs=3)(a.x), 1e-8)

# ---- tokens

@pytest.fixture(scope='module', params=['vqvae','mlp','fsq'])
def tok(request, jets):
    torch.manual_seed(0)
    t = JetTokenizer(request.param, 512, R=1., width=32, depth=2, heads=4, particles=64).eval()
    rows = t.columns(jets)
    with torch.no_grad():
        if request.param!='fsq': t.quantizer.fit(t.encoder(rows.x, rows.mask), rows.mask, rounds=2)
    return t

def test_codes_double(tok, jets):
    "In double precision the codes are the same, the jets to rounding"
    a, t = jets.to(torch.float64), copy.deepcopy(tok).double()
    here, there = t.encode(a), on(t).encode(a.to(device))
    assert torch.equal(here.ids.cpu(), there.ids.cpu()) and torch.equal(here.mask.cpu(), there.mask.cpu())
    same(on(t).decode(there).p4, t.decode(here).p4, 1e-4) # four-vectors are single

def test_codes_single(tok, jets):
    "In single precision .999 of them, and what differs is a tie"
    here, there = tok.encode(jets), on(tok).encode(jets.to(device))
    differ = (here.ids.cpu()!=there.ids.cpu())&here.mask.cpu()
    assert differ.sum() <= .001*here.mask.sum()
    if not differ.any() or not hasattr(tok.quantizer, 'codebook'): return
    rows = tok.columns(jets)
    with torch.no_grad(): z = tok.encoder(rows.x, rows.mask)
    d = lambda ids: (z-tok.quantizer.codebook[ids.cpu()]).square().sum(-1)[differ]
    torch.testing.assert_close(d(here.ids), d(there.ids), rtol=1e-3, atol=1e-5)

@pytest.fixture(scope='module')
def author(jets):
    torch.manual_seed(0)
    t = JetTokenizer('fsq', 512, R=1., width=16, depth=1, heads=2, particles=64).eval()
    return jet_gpt(jets, t, classes=4, width=32, depth=2, heads=4, epochs=2, bar=None)

def test_author(author, jets):
    "Likelihoods agree; the same jets are written in double precision"
    cpu = copy.deepcopy(author).cpu()
    here = on(author)
    same(here.score(jets[:40], label=0), cpu.score(jets[:40], label=0), 1e-3)
    a, b = (m.double().sample(20, label=1, seed=3) for m in (here, cpu))
    assert torch.equal(a.mask.cpu(), b.mask.cpu())
    same(a.p4, b.p4, 1e-5)

@pytest.mark.parametrize('kw', [{}, dict(objective=next_and_masked(seed=0), masking=True), dict(hybrid=True)], ids=['next','both','hybrid'])
def test_authors_learn(author, jets, kw):
    m = jet_gpt(jets, author.tokenizer, width=32, depth=1, heads=2, epochs=1, bar=None, **kw)
    assert on(m).sample(5, seed=0).p4.isfinite().all()

def test_rerank(author, jets):
    here = on(author)
    made = here.sample(60, label=0, seed=1)
    E = critic(jets[jets.label==0], made, epochs=1, bar=None)
    out = rerank(made, E)
    assert math.isfinite(out.ess) and len(out.weights)==len(made)

@pytest.mark.parametrize('kw', [{}, dict(freeze=True), dict(head='attention')], ids=['sum','frozen','attention'])
def test_classifiers(author, jets, kw):
    "Heads on a transformer that was trained there, and on a new one"
    told = Arrays(p4=jets.p4, mask=jets.mask, label=(jets.label>0).long())
    here = on(jet_gpt(told, author.tokenizer, width=32, depth=1, heads=2, epochs=1, bar=None))
    rows = here.sentences(told)
    for gpt in (here.gpt, fresh(here, 0)): assert math.isfinite(train_classifier(Classifier(gpt, 2, **kw), rows[:200], rows[200:], most=20, every=10))
