"The mistakes that were found in the published code of jet EBMs, each with what holds here instead; the numbers are those of the list in the docs (about, the five systems)."
import math
from functools import partial
import numpy as np, pytest, torch
from torch.testing import assert_close
from hepebm.core.arrays import Arrays
from hepebm.core.metrics import auc, evaluate, jsd
from hepebm.core.training import load_model, save_model
from hepebm.data.frames import PlainFrame
from hepebm.data.jets import from_logptetaphi, to_logptetaphi, window
from hepebm.data.kinematics import jet, observables, ptetaphim
from hepebm.data.samples import SPLITS, sample
from hepebm.ebm.energies import Quadratic, energy_grad, given
from hepebm.ebm.jets import JetEnergy, jet_ebm, sample_jets
from hepebm.ebm.objectives import MLE, _entropy
from hepebm.ebm.samplers import Pool, generator, hmc, langevin, leapfrog, run, start, temperature_of
from hepebm.nn.sets import SetTransformer, mask_bias

@pytest.fixture(scope='module')
def qcd(): a = sample('jets', 'valid'); return a[a.label==0]

@pytest.fixture
def net(): torch.manual_seed(0); return SetTransformer(3, 16, 2, 4)

def few(n=8, p=10): return torch.randn(n, p, 3, generator=generator(1)), torch.arange(p)<torch.randint(2, p, (n,1), generator=generator(2))

def test_1_attention_sees_particles_and_not_padding(net):
    x, mask = few()
    w = net.blocks[0].attention.weights(net.blocks[0].norm1(net.embed(x)), mask_bias(mask))
    assert w.masked_select(~mask[:,None,None]).max()==0 and w.masked_select(mask[:,None,None]).std()>1e-3  # not on pads, and not uniform
    x.requires_grad_()
    g, = torch.autograd.grad(net.hidden(x, mask)[:,0].square().sum(), x)
    assert (g.norm(dim=-1)[:,1:][mask[:,1:]]>0).all() and not g[~mask].any()

def test_2_a_mask_is_carried_and_never_read_from_numbers(net):
    x, mask = few()
    assert_close(net(x+~mask[...,None]*torch.randn(x.shape), mask), net(x, mask))
    s = run(langevin(given(net, dict(mask=mask)), .1), start(given(net, dict(mask=mask)), x, 0, mask), 5)
    assert torch.equal(s.x[~mask], x[~mask]) and not torch.equal(s.x[mask], x[mask])

def test_3_padding_is_not_pooled(net):
    x, mask = few()
    assert_close(net(torch.cat([x, x], 1), torch.cat([mask, ~(mask|True)], 1)), net(x, mask))

def test_4_padding_weighs_nothing(qcd):
    a = to_logptetaphi(qcd[:50], 40)
    one = a.assign(mask=a.mask & (torch.arange(40)<1))
    assert_close(ptetaphim(jet(from_logptetaphi(one).p4, one.mask)).pt, a.x[:,0,0].exp(), rtol=1e-4, atol=1e-3)

def test_5_the_kl_term_reaches_the_weights():
    E, x = Quadratic(2.), torch.randn(400, 3, generator=generator(0))
    g, = torch.autograd.grad(MLE(partial(langevin, step=.05), 1, kl=1.)(E, dict(x=x))['kl'], E.precision)
    s = MLE(partial(langevin, step=.05), 1).sample(E, dict(x=x))[1]
    assert_close(g, -.1*(x*s.x).sum(1).mean())
    assert g.abs()>.01

def test_6_repulsion_leaves_out_ones_own_slot():
    pool = Pool(lambda n, g: torch.randn(n, 3, generator=g), 300)
    o = MLE(partial(langevin, step=.05), 2, pool, repel=.3)
    for _ in range(5): terms = o(Quadratic(1.), dict(x=torch.randn(200, 3)))
    assert terms['repel'].isfinite() and terms['repel'].abs()<3

def test_7_momenta_are_drawn_anew_and_the_law_stays():
    x = torch.randn(4000, 2, generator=generator(0))
    s = run(hmc(Quadratic(1.), .3, 5), start(Quadratic(1.), x, 1), 20)
    assert_close(s.x.var(0), torch.ones(2), atol=.08, rtol=0)

def test_8_leapfrog_is_reversible():
    E = lambda x: (x**4).sum(-1)/4
    x, v = torch.randn(2, 50, 3, generator=generator(0), dtype=torch.float64)
    y,w,_,g = leapfrog(E, x, v, energy_grad(E, x)[1], .05, 20)
    assert_close(leapfrog(E, y, -w, g, .05, 20)[0], x, atol=1e-10, rtol=0)

def test_9_acceptance_knows_the_momenta():
    x = torch.randn(500, 2, generator=generator(0), dtype=torch.float64)
    s = run(hmc(Quadratic(1.).double(), .01, 5), start(Quadratic(1.).double(), x, 1), 1)
    assert s.accept.min()>.999  # H is conserved at short steps, E alone is not
    assert (s.energy-start(Quadratic(1.).double(), x).energy).abs().max()>.01

def test_10_samples_are_cut_off():
    E, x = Quadratic(2.), torch.randn(100, 3, generator=generator(0))
    o = MLE(partial(hmc, step=.2, leaps=3), 2)
    g, = torch.autograd.grad(o(E, dict(x=x))['cd'], E.precision)
    s = MLE(partial(hmc, step=.2, leaps=3), 2).sample(E, dict(x=x))[1]
    assert_close(g, (x.square().sum(1).mean()-s.x.square().sum(1).mean())/2)

def test_11_no_gradient_is_computed_twice():
    calls = []
    def E(x): calls.append(1); return x.square().sum(-1)/2
    s = start(E, torch.randn(5, 2), 0)
    run(hmc(E, .1, 10), s, 3)
    assert len(calls)==1+30

def test_12_step_and_noise_make_a_temperature():
    assert_close(temperature_of(.1, .005), 1.25e-4)
    x = torch.zeros(4000, 1)
    s = run(langevin(Quadratic(1.), .1, temperature_of(.1, .005)), start(Quadratic(1.), x, 0), 200)
    assert_close(s.x.var(), torch.tensor(1.25e-4/(1-.05)), rtol=.1, atol=0)

def test_13_14_one_scaler_that_travels_with_the_model(qcd, tmp_path):
    E = JetEnergy(8, 0, net='deepset', frame='lab', scaler='robust').fit(qcd[:300]).eval()
    save_model(tmp_path/'m', E)
    F = load_model(tmp_path/'m').eval()
    before = E.score(qcd[300:310])
    E.score(qcd[:5]), E.inputs(qcd[5:9])
    assert_close(E.score(qcd[300:310]), before, rtol=0, atol=0)
    assert_close(F.score(qcd[300:310]), before, rtol=0, atol=0)

def test_15_one_auc_of_all_events():
    g = np.random.default_rng(0)
    b, s = g.normal(0, 1, 3000), g.normal(2.5, 1, 700)
    assert abs(evaluate(None, b, dict(s=s), n=5).auc['s'] - auc(np.r_[b, s], np.r_[np.zeros(3000), np.ones(700)]))<1e-12

def test_16_divergence_counts_what_is_out_of_range():
    x = np.random.default_rng(0).normal(size=1000)
    assert jsd(x, x, range=(-1,1))==0 and abs(jsd(x, x+100, range=(0,1)) - jsd(x+100, x, range=(0,1)))<1e-12 and jsd(x, x+1e3)<=math.log(2)+1e-12
    assert jsd(x, np.r_[x, [1e6]*1000], range=(-4,4))>.1

def test_17_splits_are_disjoint_and_cuts_the_same():
    keys = {s: {tuple(v) for v in sample('jets', s).p4[:,:2].flatten(1).numpy().round(3).tolist()} for s in SPLITS}
    assert not (keys['train']&keys['test'] or keys['train']&keys['valid'] or keys['valid']&keys['test'])
    for s in SPLITS:
        a = sample('jets', s)
        for i in range(4): assert a.jet_pt[a.label==i].min()>=550 and a.jet_pt[a.label==i].max()<=650

def test_18_19_a_model_is_judged_from_its_file_on_held_out_jets(qcd, tmp_path):
    E = jet_ebm(qcd[:200], 'deepset', updates=3, warm=3, size=32, pool=32, last=1, width=8, bar=None, out=tmp_path/'run')
    F = load_model(tmp_path/'run/model').eval()
    assert F.settings['width']==8 and torch.equal(F.score(qcd[200:230]), E.eval().score(qcd[200:230]))
    assert_close(sample_jets(F, 8, 3).p4, sample_jets(E, 8, 3).p4, rtol=0, atol=0)

def test_20_angles_wrap_and_momenta_are_bounded(qcd):
    f = PlainFrame(about='lab').fit(qcd)
    b = f(qcd[:50])
    far = b.x + torch.tensor([50., 30., 20*math.pi])
    made = f.jets(far, b.mask)
    o = observables(made.p4, made.mask)
    assert made.p4.isfinite().all() and all(v.isfinite().all() for v in (o.mass, o.girth)) and ptetaphim(made.p4[made.mask]).phi.abs().max()<=math.pi+1e-5
    assert_close(f.features(far-torch.tensor([50., 30., 0]), b.mask), f.features(b.x, b.mask), atol=1e-4, rtol=1e-4)
