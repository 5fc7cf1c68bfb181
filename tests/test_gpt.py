"The transformer that writes: cache and slots against reading at once, draws against exact probabilities, likelihoods that sum to one"
import itertools
import pytest, torch, torch.nn.functional as F
from scipy.stats import chi2, kstest
from hepebm.core.training import load_model, save_model
from hepebm.nn import gpt as module
from hepebm.nn.gpt import GPT, GPTConfig, cached_equals_full, draw, generate, log_prob, uniforms, write

V, START, STOP, PAD = 9, 0, 7, 8
KINDS = dict(plain={}, classes=dict(classes=3), features=dict(features=2), both=dict(classes=3, features=2, masking=True))

def small(seed=0, sharp=3., **kw):
    torch.manual_seed(seed)
    gpt = GPT(**dict(vocab=V, length=10, width=16, depth=2, heads=2) | kw).double()
    with torch.no_grad(): gpt.head.weight *= sharp
    return gpt

def seen(ids): return torch.stack([(ids*1.3).sin(), (ids*.7).cos()], -1).double()

def more(kw, ids): return dict(label=torch.arange(len(ids))%3 if kw.get('classes') else None, features=seen(ids) if kw.get('features') else None)

def writing(kw, n): return dict(label=torch.arange(n)%3 if kw.get('classes') else None, features_of=seen if kw.get('features') else None)

@pytest.fixture
def ids(): return F.pad(torch.randint(1, 7, (6,9), generator=torch.Generator().manual_seed(3)), (1,0))

every = pytest.mark.parametrize('positions,norm,kind', list(itertools.product(('learned','rotary','none'), ('pre','post'), KINDS)))

def test_published_size():
    gpt = GPT(GPTConfig.published())
    assert sum(p.numel() for p in gpt.parameters()) == 6_570_498
    assert {k: tuple(v.shape) for k,v in gpt.state_dict().items() if k.startswith(('embed','head'))} == {'embed.weight': (8194,256), 'head.weight': (8194,256), 'head.bias': (8194,)}
    assert not any(m.bias is not None for k,m in gpt.named_modules() if k.endswith('qkv')) and all(m.bias is not None for k,m in gpt.named_modules() if k.endswith('proj'))

@every
def test_cached_equals_full(positions, norm, kind, ids):
    gpt = small(positions=positions, norm=norm, dropout=.2, **KINDS[kind])
    assert gpt.training and cached_equals_full(gpt, ids, **more(KINDS[kind], ids)) < 1e-12 and gpt.training

@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('positions', ['learned','rotary','none'])
def test_slots(positions, seed, ids):
    "Rows begin anew and are closed at random times; all logits are those of reading each sequence at once"
    gpt, g = small(positions=positions, norm='post' if seed%2 else 'pre').eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        full, cache, row = gpt(ids), gpt.cache(6), torch.arange(6)
        for _ in range(40):
            fresh = [i for i in range(len(row)) if cache.count[i]==10 or torch.rand((), generator=g) < .15]
            cache.reset(fresh)
            row[fresh] = torch.randint(6, (len(fresh),), generator=g)
            if len(row) > 2 and torch.rand((), generator=g) < .08:
                stay = sorted(torch.randperm(len(row), generator=g)[:len(row)-1-int(torch.randint(2, (), generator=g))].tolist())
                row = row[cache.keep(stay)]
            at = cache.at.clone()
            assert at.tolist() == cache.count
            torch.testing.assert_close(gpt.step(ids[row,at], cache), full[row,at], rtol=0, atol=1e-12)

def test_full_cache(ids):
    gpt, cache = small(), None
    cache = gpt.cache(6, length=3)
    for t in range(3): gpt.step(ids[:,t], cache)
    with pytest.raises(ValueError, match='3 positions'): gpt.step(ids[:,3], cache)

@every
def test_nothing_later_is_seen(positions, norm, kind, ids):
    "By the gradient: what enters at s moves no logit before s, and does move those from s on"
    gpt = small(positions=positions, norm=norm, **KINDS[kind])
    held, enter = [], gpt._enter
    def hold(*a):
        held.append(enter(*a).detach().requires_grad_())
        return held[-1]
    gpt._enter = hold
    out = gpt(ids, **more(KINDS[kind], ids))
    for t in (0, 4, 9):
        g, = torch.autograd.grad(out[:,t].square().sum(), held[0], retain_graph=True)
        assert not g[:,t+1:].any() and (g[:,:t+1].abs().amax(-1) > 0).all()

@pytest.mark.parametrize('positions', ['rotary','none'])
@pytest.mark.parametrize('causal', [True,False])
def test_padding_in_front(positions, causal, ids):
    "Where only distances count, a sequence behind padding is the sequence, whatever the padding"
    gpt, mask = small(positions=positions), torch.arange(10).expand(6,10) >= 3
    for junk in (ids, torch.where(mask, ids, 5)): torch.testing.assert_close(gpt.hidden(junk, mask, causal=causal)[:,3:], gpt.hidden(ids[:,3:], causal=causal), rtol=0, atol=1e-12)

@every
@pytest.mark.parametrize('causal', [True,False])
def test_rows_of_padding(positions, norm, kind, causal, ids):
    gpt, mask = small(positions=positions, norm=norm, **KINDS[kind]), torch.ones(6,10, dtype=torch.bool)
    mask[2], mask[3,1:] = False, False
    h = gpt.hidden(ids, mask, causal=causal, **more(KINDS[kind], ids))
    h[mask].square().sum().backward()
    assert h.isfinite().all() and all(p.grad.isfinite().all() for p in gpt.parameters() if p.grad is not None)

@every
def test_every_parameter_learns(positions, norm, kind, ids):
    gpt, kw = small(positions=positions, norm=norm, **KINDS[kind]), more(KINDS[kind], ids)
    h = gpt.hidden(ids, masked=torch.rand(ids.shape, generator=torch.Generator().manual_seed(0))<.3 if gpt.config.masking else None, **kw)
    F.cross_entropy(gpt.head(h)[:,:-1].flatten(0,1), ids[:,1:].flatten()).backward()
    assert not [k for k,p in gpt.named_parameters() if p.grad is None or not p.grad.any()]

def test_hidden_particles_stay_hidden(ids):
    gpt = small(**KINDS['both'])
    masked = torch.zeros(6,10, dtype=torch.bool).index_fill(1, torch.tensor([2,5]), True)
    kw = more(KINDS['both'], ids)
    a = gpt.hidden(ids, causal=False, masked=masked, **kw)
    kw['features'] = torch.where(masked[...,None], torch.nan, kw['features'])
    other = torch.where(masked, 3, ids)
    b = gpt.hidden(other, causal=False, masked=masked, **kw | dict(features=kw['features'].nan_to_num(7.)))
    assert torch.equal(a, b)

def test_special_ids_are_read_as_ids(ids):
    "Start, stop and padding have vectors of their own; numbers beside them, NaN included, do not matter; other ids say nothing"
    gpt, f = small(features=2), seen(ids)
    ids[:,8] = STOP
    g = torch.where(((ids==START)|(ids==STOP))[...,None], torch.nan, f)
    assert torch.equal(gpt(ids, features=f), gpt(ids, features=g)) and gpt.embed.weight.shape == (3,16)
    assert torch.equal(gpt(ids, features=f), gpt(torch.where((ids==START)|(ids==STOP), ids, 5), features=f))
    gpt(ids, features=g).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in gpt.parameters())
    assert not torch.equal(gpt(ids, features=f)[:,8], gpt(torch.where(ids==STOP, PAD, ids), features=f)[:,8])

def test_uniforms_are_splitmix():
    "Against whole numbers of Python"
    def mix(z):
        z = (z ^ z>>30)*0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z>>27)*0x94D049BB133111EB % 2**64
        return z ^ z>>31
    golden = 0x9E3779B97F4A7C15
    for key,row,at in ((0,0,0), (5,3,17), (2**62-1,10**6,127), (123456789,7,1)):
        want = (mix((mix((key+row*golden)%2**64)+(at+1)*golden)%2**64)>>11)*2.**-53
        assert uniforms(key, torch.tensor([row]), torch.tensor([at])).item() == want

@pytest.mark.parametrize('key', [0, 1, 2**61+3])
def test_uniforms_are_uniform(key):
    u = uniforms(key, torch.arange(500)[:,None], torch.arange(128))
    assert kstest(u.flatten(), 'uniform').pvalue > 1e-3
    for a,b in ((u[:,:-1],u[:,1:]), (u[:-1],u[1:])):
        n = torch.bincount((8*a).long().flatten()*8+(8*b).long().flatten(), minlength=64).double()
        assert chi2.sf(((n-n.mean())**2/n.mean()).sum(), 63) > 1e-3

@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize('rule', [{}, dict(temperature=.3), dict(top_k=5), dict(top_p=.8), dict(top_k=20, top_p=.5), dict(temperature=2., top_p=1.)])
def test_draws(rule, dtype):
    "Against probabilities written out; ids of probability 0 never come, at the ends of the interval neither"
    g = torch.Generator().manual_seed(1)
    logits = (2*torch.randn(50, generator=g)).to(dtype)
    logits[[0,20,48,49]] = -torch.inf
    p = (logits.double()/rule.get('temperature', 1)).exp()
    order = p.argsort(descending=True)
    p[order[rule.get('top_k', 50):]] = 0
    p = p/p.sum()
    if 'top_p' in rule: p[order[1:][p[order].cumsum(0)[:-1] >= rule['top_p']]] = 0
    p, n = p/p.sum(), 50_000
    u = torch.cat([uniforms(9, torch.arange(n), torch.zeros(n, dtype=torch.long)), torch.tensor([0, 1-2.**-53], dtype=torch.float64)])
    got = draw(logits.expand(len(u),-1), u, **rule)
    assert (p[got] > 0).all()
    c, e = torch.bincount(got[:n], minlength=50)[p>0], n*p[p>0]
    c, e = (torch.cat([v[e>5], v[e<=5].sum()[None]]) for v in (c, e))
    keep = e > 0
    assert chi2.sf(((c-e)**2/e)[keep].sum(), int(keep.sum())-1) > 1e-4

def test_greedy(ids):
    gpt = small()
    a = generate(gpt, ids[:,0], temperature=0)
    assert torch.equal(a[:,1:], gpt(a[:,:-1]).argmax(-1)) and torch.equal(a, generate(gpt, ids[:,0], temperature=1e-6, seed=1))

@every
@pytest.mark.parametrize('rule', [{}, dict(top_k=3, temperature=.8), dict(top_p=.7)])
def test_cache_changes_no_id(positions, norm, kind, rule, ids):
    gpt = small(positions=positions, norm=norm, dropout=.1, **KINDS[kind])
    kw = dict(seed=4, stop=STOP, forbidden=[START,PAD], **rule, **writing(KINDS[kind], 6))
    a = generate(gpt, ids[:,:2], **kw)
    assert torch.equal(a, generate(gpt, ids[:,:2], cache=False, **kw)) and torch.equal(a, generate(gpt, ids[:,:2], **kw))

@pytest.mark.parametrize('every', [1,3,8])
@pytest.mark.parametrize('kind', KINDS)
def test_slots_change_no_jet(kind, every, monkeypatch):
    "Any number of slots, looked at as often as on a CPU or as seldom as on a GPU, against the plain loop"
    gpt, kw = small(positions='rotary', **KINDS[kind]), writing(KINDS[kind], 90) | dict(seed=2, forbidden=[START,PAD])
    want = generate(gpt, torch.zeros(90, dtype=torch.long), stop=STOP, cache=False, **kw)
    assert (want==STOP).any(1).sum() > 20 and ((want!=PAD).sum(1)==10).any()
    monkeypatch.setattr(module, '_every', lambda device: every)
    for batch in (1, 5, 64, 90, 500): assert torch.equal(write(gpt, 90, START, STOP, batch=batch, **kw), want)

def test_rows_end():
    gpt = small()
    a = write(gpt, 300, START, STOP, seed=1, pad=PAD, forbidden=[START,PAD])
    for r in a.tolist():
        n = r.index(STOP)+1 if STOP in r else 10
        assert r[0]==START and all(i==PAD for i in r[n:]) and PAD not in r[:n] and r[1:n].count(START)==0
    b = write(gpt, 300, START, STOP, seed=1, pad=STOP, forbidden=[START,PAD])
    assert torch.equal(torch.where(a==PAD, STOP, a), b)
    with torch.no_grad(): gpt.head.bias[STOP] += 50
    assert write(gpt, 4, START, STOP).tolist() == [[START,STOP]]*4

def test_seeds():
    gpt, kw = small(), dict(bar=None)
    w = lambda seed: write(gpt, 50, START, STOP, seed=seed, **kw)
    state = torch.get_rng_state()
    assert torch.equal(w(1), w(1)) and torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(w(1), w(2))
    assert not torch.equal(w(None), w(None))
    torch.manual_seed(5); a = w(None); torch.manual_seed(5)
    assert torch.equal(a, w(None))
    g = torch.Generator().manual_seed(3); a, b = w(g), w(g)
    g = torch.Generator().manual_seed(3)
    assert torch.equal(a, w(g)) and not torch.equal(a, b)
    assert torch.equal(write(gpt, 20, START, STOP, seed=1, **kw), w(1)[:20]), 'the first jets do not depend on how many follow'

def test_leaves_no_trace(ids):
    "Modes are as before, parts that are frozen in eval included; results can be trained on; no gradient, no change of weights"
    gpt = small(dropout=.2)
    gpt.blocks[0].eval()
    modes, before = [m.training for m in gpt.modules()], [p.clone() for p in gpt.parameters()]
    a = generate(gpt, ids[:,0], seed=0)
    s = log_prob(gpt, a)
    assert [m.training for m in gpt.modules()]==modes and all(torch.equal(p, q) for p,q in zip(gpt.parameters(), before))
    assert all(p.grad is None for p in gpt.parameters()) and not a.is_inference() and not s.is_inference()
    F.cross_entropy(gpt(a[:,:-1]).flatten(0,1), a[:,1:].flatten()).backward()
    (s*torch.ones(6, requires_grad=True, dtype=s.dtype)).sum().backward()
    with pytest.raises(ValueError, match='stop'): generate(gpt, ids[:,0], features_of=lambda i: (_ for _ in ()).throw(ValueError('stop')))
    assert [m.training for m in gpt.modules()]==modes

@every
def test_probabilities_sum_to_one(positions, norm, kind):
    "All sequences of a small vocabulary, written out"
    gpt = small(positions=positions, norm=norm, vocab=5, length=5, **KINDS[kind])
    rows = torch.tensor([(0, *s) for s in itertools.product(range(5), repeat=4) if 3 not in s or all(i==4 for i in s[s.index(3)+1:])])
    extra = more(KINDS[kind], rows)
    if extra['label'] is not None: extra['label'] = 2
    assert abs(log_prob(gpt, rows, stop=3, **extra).exp().sum()-1) < 1e-12
    q = log_prob(gpt, rows, stop=3, forbidden=[0,4], temperature=.6, chunk=7, **extra).exp()
    assert abs(q.sum()-1) < 1e-12
    bad = ((rows[:,1:]==0) | (rows[:,1:]==4) & ~(rows[:,:-1]==3) & ~(rows[:,:-1]==4)).any(1)
    assert not q[bad].any()

def test_log_prob_counts_what_it_should(ids):
    gpt = small()
    ids[:,6], ids[:,7:] = STOP, PAD
    one = F.log_softmax(gpt(ids[:,:-1]), -1).gather(-1, ids[:,1:,None])[...,0].detach()
    for kw,n in (dict(stop=STOP),6), (dict(pad=PAD),6), (dict(stop=STOP, pad=PAD),6), ({},9): torch.testing.assert_close(log_prob(gpt, ids, **kw), one[:,:n].sum(1))
    other = ids.clone(); other[:,7:] = 3
    assert torch.equal(log_prob(gpt, other, stop=STOP), log_prob(gpt, ids, stop=STOP))
    assert not log_prob(gpt, torch.full((3,4), PAD), pad=PAD).any() and log_prob(gpt, ids[:,:1]).tolist()==[0]*6

def test_log_prob_in_bounded_memory(ids):
    gpt, most = small(), []
    gpt.head.register_forward_hook(lambda m, i, o: most.append(len(o)))
    a = log_prob(gpt, ids.repeat(50,1))
    b = log_prob(gpt, ids.repeat(50,1), chunk=40)
    assert max(most[1:]) <= 40 and len(most) > 50
    torch.testing.assert_close(a, b)

def test_frequencies_are_the_probabilities():
    "40,000 rows of a network that reads features, with top-k left out of it"
    gpt = small(vocab=5, length=4, sharp=2., **KINDS['features'])
    made = write(gpt, 40_000, 0, 3, batch=3000, seed=8, pad=4, features_of=seen)
    rows, n = made.unique(dim=0, return_counts=True)
    p = log_prob(gpt, rows, stop=3, features=seen(rows)).exp()
    e = 40_000*p
    c, e = (torch.cat([v[e>8], (40_000-v[e>8].sum())[None]]) for v in (n.double(), e))
    assert len(e) > 10 and chi2.sf(((c-e)**2/e).sum(), len(e)-1) > 1e-3

@pytest.mark.parametrize('kind', KINDS)
def test_save_and_load(kind, tmp_path, ids):
    gpt = small(**KINDS[kind], positions='rotary', hidden=24, special=(0,3) if 'features' in KINDS[kind] else None)
    save_model(tmp_path/'m', gpt)
    again, kw = load_model(tmp_path/'m'), more(KINDS[kind], ids)
    assert again.config==gpt.config and torch.equal(gpt.eval()(ids, **kw), again.eval()(ids, **kw))

def test_configs():
    c = GPTConfig(vocab=9, width=16, heads=2)
    assert GPT(c).settings == GPT(vocab=9, width=16, heads=2).settings and GPT(c, depth=1).config.depth==1 and c.depth==3
    with pytest.raises(TypeError, match='GPTConfig'): GPT(8194)
    for kw in (dict(heads=3), dict(positions='x'), dict(norm='x'), dict(dropout=1.), dict(depth=0), dict(classes=-1), dict(features=1, special=(9,)), dict(width=2.5), dict(act='x')):
        with pytest.raises(ValueError): GPTConfig(**dict(vocab=9, width=16, heads=2) | kw)

@pytest.mark.parametrize('kw,match', [(dict(temperature=-1), 'temperature'), (dict(temperature=float('nan')), 'temperature'), (dict(top_k=0), 'top_k'), (dict(top_p=0), 'top_p'), (dict(forbidden=range(V)), 'all ids'),
    (dict(forbidden=torch.ones(3, dtype=torch.bool)), 'forbidden'), (dict(length=11), 'length=11'), (dict(label=torch.zeros(2)), 'label')])
def test_what_makes_no_sense(kw, match):
    with pytest.raises(ValueError, match=match): generate(small(), torch.zeros(3, dtype=torch.long), **kw)

def test_ids_out_of_range():
    with pytest.raises(ValueError, match='0 to 8'): write(small(), 3, V, STOP)
