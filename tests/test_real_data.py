"Small real files of the public sets, read where HEPEBM_REAL_DATA names their folder"
import os
from pathlib import Path
import numpy as np, pytest, torch
from hepebm.core.arrays import Arrays
from hepebm.data.jetclass import CLASSES, read_jetclass, write_jetclass
from hepebm.data.jets import check_p4, read_jets, to_logptetaphi, from_logptetaphi, window, write_jets
from hepebm.data.kinematics import jet, ptetaphim, relative
from hepebm.data.muons import read_muons, write_muons, z_window
from hepebm.data.jets import DataError

folder = os.environ.get('HEPEBM_REAL_DATA')
pytestmark = pytest.mark.skipif(not folder, reason='HEPEBM_REAL_DATA does not name a folder')
def real(name):
    path = Path(folder)/name
    if not path.exists(): pytest.skip(f'no {name} in {folder}')
    return path

@pytest.fixture(scope='module')
def jetclass():
    load = lambda k: np.load(real(f'jetclass_example500_{k}.npy'))
    v = load('pfVectors').transpose(0,2,1)[...,[3,0,1,2]].copy()
    label = load('labels').argmax(1)
    return Arrays(p4=v, mask=check_p4(v, 'pfVectors', 'p4'), label=label), load('pfPoints'), load('pfMask')[:,0]>0

def test_jetclass_mask_is_positive_energy(jetclass):
    a,_,mask = jetclass
    assert torch.equal(a.mask, torch.as_tensor(mask))

def test_jetclass_masses(jetclass):
    "Median jet masses of top, W, Z and H(bb) jets"
    a,_,_ = jetclass
    m = ptetaphim(jet(a.p4.double(), a.mask)).m
    for name,mass,tol in (('Tbqq',172,10), ('Wqq',87,8), ('Zqq',93,8), ('Hbb',121,8)):
        assert abs(m[a.label==CLASSES.index(name)].median()-mass) < tol, name

def test_jetclass_deta_is_signed(jetclass, tmp_path):
    "The published part_deta against ours, through a file"
    a,points,_ = jetclass
    write_jetclass(tmp_path/'a.root', a)
    b = read_jetclass(tmp_path/'a.root', features=('part_deta','part_dphi','etarel'))
    assert torch.equal(b.p4, a.p4) and torch.equal(b.label, a.label)
    points = torch.as_tensor(points).transpose(1,2)
    diff = (b.x[...,:2]-points).abs()[a.mask]
    assert diff[:,0].mean() < 2e-3 and diff[:,1].max() < 1e-3
    unsigned = (b.x[...,2]-points[...,0]).abs()[a.mask]
    assert unsigned.mean() > 20*diff[:,0].mean()

@pytest.mark.parametrize('suffix', ('h5','parquet'))
def test_jets_round_trip(jetclass, tmp_path, suffix):
    a = jetclass[0]
    write_jets(tmp_path/f'a.{suffix}', a)
    b = read_jets(tmp_path/f'a.{suffix}')
    assert all(torch.equal(a[k], b[k]) for k in a.keys())

def test_inputs_keep_the_jet(jetclass):
    "log pt, eta, phi of all particles give the jet back but for the masses of the particles"
    a = jetclass[0].to(torch.float64)
    one, two = (ptetaphim(jet(o.p4, o.mask)) for o in (a, from_logptetaphi(to_logptetaphi(a, 128))))
    assert (one.pt-two.pt).abs().max()/one.pt.max() < 1e-5 and ((one.m-two.m).abs()/one.m).median() < .02
    assert len(window(a, 'pt', 500, 1000)) > 480

def test_double_muon_data():
    "Opposite signs abound, and the Z stands where it should"
    a = read_muons(real('cms2012_DoubleMuParked_1001.root'))
    assert len(a)==873 and (a.charge.prod(1)<0).float().mean()>.5
    z = z_window(a, 81, 101, pt=20)
    assert len(z)>10 and abs(z.mass.median()-91)<2
    with pytest.raises(DataError, match='no cones'): read_muons(real('cms2012_DoubleMuParked_1001.root'), cones=True)

def test_pfnano_cones(tmp_path):
    "Charged and neutral sums in a cone are near CMS' own isolation (which subtracts pile-up)"
    a = read_muons(real('cms_pfnano_qcd10.root'), pairs=False, R=.4)
    f = a.features.index
    iso = torch.where(a.mask & (a.cands[...,f('pdgid')].abs()!=13), a.cands[...,f('pt')], 0).sum(1)/a.pt[:,0]
    ratio = iso/a.iso04[:,0]
    assert ((ratio>.6) & (ratio<2.5)).all(), ratio
    assert torch.hypot(a.cands[...,1], a.cands[...,2])[a.mask].max()<.4
    write_muons(tmp_path/'m', a)
    assert torch.equal(read_muons(tmp_path/'m').cands[...,0], a.cands[...,0])
