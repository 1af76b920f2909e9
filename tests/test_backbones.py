"""Backbones against pytorchvideo's own, against arithmetic, and with prompts in every place."""

import re

import pytest
import torch
from configs import composed
from torch import nn

from vmp.backbones import SPECS, backbone_spec, build_backbone
from vmp.backbones.convnets import MaxPool, MeanPool
from vmp.build import set_precision_switches
from vmp.errors import ConfigError
from vmp.layer import MotionPrompt, normalize
from vmp.model import PromptedClassifier
from vmp.objective import Objective
from vmp.pathways import pathway_frames, select_frames

SMALL = {  # name -> (frames, crop, options): minutes of R50 in seconds
    "tiny": (8, 32, {"width": 4}),
    "c2d": (8, 32, {"width": 8}),
    "i3d": (8, 32, {"width": 8}),
    "slowfast": (8, 32, {"width": 8}),
    "i3d_inception": (8, 32, {"width": 4}),
    "x3d_xs": (4, 32, {"width": 8}),
    "timesformer": (4, 32, {"dim": 24, "depth": 2, "heads": 3, "patch": 8}),
}


def small(name, *, prompted=(), split="plus_one", classes=5, dropout=0.0, variation=True, **options):
    """A classifier with prompts, and a batch of two clips for it."""
    torch.manual_seed(0)
    frames, crop, own = SMALL[name]
    spec = backbone_spec(name).at(frames=frames, crop=crop)
    backbone = build_backbone(name, num_classes=classes, spec=spec, **{"dropout": dropout} | own | options)
    if spec.pathways == ("video",):
        assert set(prompted) <= {"video"}
        plan, keys = None, prompted
    else:
        plan = pathway_frames(frames=frames, alpha=spec.alpha, prompted=prompted, split=split)
        keys = ("video",) if plan.shared else prompted
    prompts = {key: MotionPrompt(m=0.5, n=0.1) for key in keys}
    model = PromptedClassifier(
        backbone, prompts=prompts, pathway_frames=plan, variation_in_training=variation
    )
    clips = torch.randint(0, 256, (2, 3, plan.frames if plan else frames + len(keys), crop, crop))
    return model, clips.to(torch.uint8)


def placements():
    for name, spec in SPECS.items():
        if name in SMALL:
            yield from [(name, ())] + ([(name, ("video",))] if spec.pathways == ("video",) else [])
    yield from [("slowfast", p) for p in (("slow",), ("fast",), ("slow", "fast"))]


# --- every backbone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta_inv", [1, 2])
def test_the_fast_pathway_of_slowfast_has_width_over_beta_inv_channels(beta_inv):
    model, _ = small("slowfast", beta_inv=beta_inv)
    stems = model.backbone.blocks[0].multipathway_blocks
    assert [stem.conv.out_channels for stem in stems] == [8, 8 // beta_inv]
    clip = torch.rand(2, 3, 8, 32, 32)
    assert model.backbone([clip[:, :, ::4], clip]).shape == (2, 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["c2d", "i3d", "slowfast", "x3d_xs"])
def test_crops_smaller_than_the_stride(name):
    """Every one of the five halvings rounds up, so they end in one position, as the pooling window expects."""
    spec = backbone_spec(name).at(frames=8, crop=28)
    model = build_backbone(name, num_classes=5, spec=spec, width=8, blocks=1)
    for side in (spec.crop, spec.test_crop):
        clip = torch.rand(2, 3, 8, side, side)
        out = model([clip[:, :, ::4], clip] if name == "slowfast" else clip)
        assert out.shape == (2, 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["c2d", "i3d", "slowfast", "x3d_m"])
def test_blocks_leaves_out_all_but_the_first_of_each_stage(name):
    with torch.device("meta"):
        whole, short = (build_backbone(name, num_classes=5, blocks=blocks) for blocks in (None, 2))
    kept = {
        key: value.shape
        for key, value in whole.state_dict().items()
        if not (found := re.search(r"res_blocks\.(\d+)\.", key)) or int(found[1]) < 2
    }
    assert kept == {key: value.shape for key, value in short.state_dict().items()}
    assert len(kept) < len(whole.state_dict())


@pytest.mark.parametrize(
    ("name", "classes", "numbers"),
    [
        ("slowfast", 400, 34_566_488),
        ("c2d", 400, 24_327_632),
        ("i3d", 400, 28_043_472),
        ("i3d_inception", 400, 12_697_264),
        ("x3d_xs", 400, 3_794_274),
        ("x3d_s", 400, 3_794_274),
        ("x3d_m", 400, 3_794_274),
        ("timesformer", 400, 121_566_352),
        ("timesformer", 600, 121_720_152),
        ("timesformer", 174, 121_392_558),
        ("timesformer", 67, 121_310_275),
    ],
)
def test_parameters_are_those_published(name, classes, numbers):
    with torch.device("meta"):
        model = build_backbone(name, num_classes=classes)
    assert sum(p.numel() for p in model.parameters()) == numbers


@pytest.mark.parametrize(("name", "prompted"), placements())
def test_every_backbone_learns_with_prompts_in_every_place(name, prompted):
    model, clips = small(name, prompted=prompted)
    model.train()
    weights = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(6):
        out = model(clips)
        assert out.logits.shape == (2, 5)
        assert set(out.variations) == set(prompted)
        terms = Objective(variation_weight=0.1)(out.logits, torch.tensor([0, 3]), out.variations)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(terms["cross_entropy"].item())
    assert min(losses[1:]) < losses[0]  # two clips of noise are not learned in every step
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    moved = {
        key
        for (key, p), before in zip(model.named_parameters(), weights, strict=True)
        if not torch.equal(p, before)
    }
    first_convs = [k for k, m in model.backbone.named_modules() if getattr(m, "in_channels", 0) == 3]
    must = [f"prompts.{key}.power_norm.{x}" for key in prompted for x in "mn"]
    must += [f"backbone.{key}.weight" for key in (*first_convs, model.backbone.head_name)]
    assert set(must) <= moved
    model.eval()
    assert torch.isfinite(model(clips).logits).all()


def test_backbones_are_called_by_name():
    with pytest.raises(ConfigError, match="backbone 'resnet' is not known: must be one of tiny, slowfast"):
        build_backbone("resnet", num_classes=5)
    for name, spec in SPECS.items():
        with torch.device("meta"):
            model = build_backbone(name, num_classes=7)
        head = model.get_submodule(model.head_name)
        assert isinstance(head, nn.Linear)
        assert head.out_features == 7
        assert spec.at() == spec


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((1, 3, 3), (1, 2, 2), (0, 1, 1)), ((2, 1, 1), (2, 1, 1), (0, 0, 0)), ((1, 2, 2), (1, 2, 2), (0, 0, 0))],
)
def test_pooling_by_2d_is_3d_pooling(kernel, stride, padding):
    """Also where values are equal, as after a ReLU: the gradient goes to the same one of them."""
    theirs = nn.MaxPool3d(kernel, stride, padding)
    x = torch.randn(2, 3, 6, 9, 10).relu()
    assert_same_operation(MaxPool(theirs), theirs, x, tolerance=0)
    last = x.contiguous(memory_format=torch.channels_last_3d)
    assert_same_operation(MaxPool(theirs), theirs, last, tolerance=0)


@pytest.mark.parametrize("kernel", [(4, 5, 5), (4, 3, 2), (1, 5, 5)])
def test_means_over_time_and_windows_are_3d_pooling(kernel):
    theirs = nn.AvgPool3d(kernel, stride=1)
    assert_same_operation(MeanPool(theirs), theirs, torch.randn(2, 3, kernel[0], 5, 6), tolerance=1e-6)


def assert_same_operation(ours, theirs, x, *, tolerance):
    a, b = (x.clone().requires_grad_() for _ in range(2))  # clones keep the memory format
    left, right = ours(a), theirs(b)
    weight = torch.randn_like(right)
    (left * weight).sum().backward()
    (right * weight).sum().backward()
    assert left.shape == right.shape
    assert torch.allclose(left, right, rtol=0, atol=tolerance)
    assert torch.allclose(a.grad, b.grad, rtol=0, atol=tolerance)


def test_pools_that_cannot_be_folded_are_refused():
    with pytest.raises(ValueError, match="space and time at once"):
        MaxPool(nn.MaxPool3d((2, 2, 2)))
    with pytest.raises(ValueError, match="stride"):
        MeanPool(nn.AvgPool3d((2, 2, 2)))
    with pytest.raises(ValueError, match="3 frames arrive where 4 are pooled"):
        MeanPool(nn.AvgPool3d((4, 2, 2), stride=1))(torch.zeros(1, 1, 3, 4, 4))


@pytest.mark.parametrize("name", SMALL)
def test_no_backbone_holds_what_cuda_cannot_repeat(name):
    """Layers whose backward pass has no deterministic kernel in torch's list."""
    net, _ = small(name)
    kinds = (nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveAvgPool3d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
    assert not [m for m in net.modules() if isinstance(m, (*kinds, nn.Upsample, nn.ReplicationPad3d))]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in SMALL if n not in ("tiny", "timesformer")])
def test_convolutional_backbones_compile_to_one_graph(name):
    check_one_graph(name)


@pytest.mark.slow
def test_timesformer_compiles_to_one_graph():
    check_one_graph("timesformer")


def check_one_graph(name):
    torch._dynamo.reset()
    prompted = SPECS[name].pathways
    options = (
        {} if name in ("timesformer", "i3d_inception") else {"blocks": 2}
    )  # one with a projection and one without in each stage
    model, clips = small(name, prompted=prompted, **options)
    model.train()
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
    if name == "timesformer":
        model.eval()  # its drop path is random
    ours, theirs = compiled(clips).logits, model(clips).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    ours.sum().backward()


# --- pytorchvideo's ------------------------------------------------------------------------------------------------


def stock(name):
    from pytorchvideo.models import hub

    return getattr(hub, {"slowfast": "slowfast_r50", "c2d": "c2d_r50", "i3d": "i3d_r50"}.get(name, name))(
        pretrained=False, model_num_class=6, dropout_rate=0.0
    ).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["c2d", "x3d_s"])
def test_convolutional_backbones_are_pytorchvideos(name):
    check_stock(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["i3d", "slowfast", "x3d_m"])
def test_more_convolutional_backbones_are_pytorchvideos(name):
    check_stock(name)


@torch.no_grad()
def check_stock(name):
    """The same numbers at the training crop; on the larger test crop the mean of the positions' probabilities."""
    torch.manual_seed(0)
    spec = SPECS[name]
    theirs = stock(name)
    for module in theirs.modules():  # running statistics that matter, and a head that decides
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.5, 1.5)
    theirs.blocks[-1].proj.weight.normal_(std=0.3)
    ours = build_backbone(name, num_classes=6, dropout=0.0)
    ours.load_state_dict(theirs.state_dict())  # strict: the names are theirs
    ours.eval()

    def inputs(side):
        x = torch.randn(1, 3, spec.frames, side, side)
        if len(spec.pathways) == 1:
            return x
        plan = pathway_frames(frames=spec.frames, alpha=spec.alpha, prompted=())
        return [select_frames(x, at).contiguous() for at in plan.indices.values()]

    x = inputs(spec.crop)
    given = [part.clone() for part in x] if isinstance(x, list) else x.clone()
    got = ours(x)
    if isinstance(x, list):
        assert all(torch.equal(a, b) for a, b in zip(x, given, strict=True))  # the list is left as it is
    wanted = theirs(list(given) if isinstance(given, list) else given)
    if name.startswith("x3d"):
        got = got.softmax(dim=1)  # theirs ends in a softmax
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)

    x = inputs(spec.test_crop)
    got = ours(x).softmax(dim=1)
    head = theirs.blocks[-1]
    head.output_pool, head.activation = None, nn.Softmax(dim=1)
    each = theirs(list(x) if isinstance(x, list) else x)  # (1, classes, 1, 2, 2)
    assert each.shape[2:] == (1, 2, 2)
    torch.testing.assert_close(got, each.mean(dim=(2, 3, 4)), rtol=1e-4, atol=1e-5)


# --- SlowFast's pathways -------------------------------------------------------------------------------------------

BASELINE = [0, 4, 8, 13, 17, 22, 26, 31]


@pytest.mark.parametrize(
    ("split", "prompted", "frames", "slow", "fast"),
    [
        ("plus_one", (), 32, BASELINE, range(32)),
        ("plus_one", ("slow",), 33, range(0, 33, 4), range(1, 33)),
        ("plus_one", ("fast",), 33, [1, 5, 9, 14, 18, 23, 27, 32], range(33)),
        ("plus_one", ("slow", "fast"), 33, range(0, 33, 4), range(33)),
        ("aligned", ("slow",), 36, [0, *(4 + i for i in BASELINE)], range(4, 36)),
        ("aligned", ("fast",), 36, [4 + i for i in BASELINE], range(3, 36)),
        ("aligned", ("slow", "fast"), 36, [0, *(4 + i for i in BASELINE)], range(3, 36)),
        ("shared", ("slow", "fast"), 33, BASELINE, range(32)),  # of the 32 prompts
        ("shared", ("slow",), 33, BASELINE, range(1, 33)),
        ("shared", ("fast",), 33, [1 + i for i in BASELINE], range(32)),
    ],
)
def test_the_published_cuts(split, prompted, frames, slow, fast):
    got = pathway_frames(frames=32, alpha=4, prompted=prompted, split=split)
    assert got.frames == frames
    assert list(got.indices) == ["slow", "fast"]
    assert got.indices["slow"] == tuple(slow)
    assert got.indices["fast"] == tuple(fast)
    assert got.shared == (prompted if split == "shared" else ())


def test_wrong_cuts_are_told():
    with pytest.raises(ValueError, match="frames = 30: must be a multiple of 4"):
        pathway_frames(frames=30, alpha=4, prompted=())
    with pytest.raises(ValueError, match="split = 'half'"):
        pathway_frames(frames=32, alpha=4, prompted=("slow",), split="half")


def test_taking_frames():
    clips = torch.arange(33).view(1, 1, 33, 1, 1).expand(2, 3, -1, 4, 4)
    for indices in ([0], [1, 2, 3], [0, 4, 8, 32], list(range(0, 33, 4)), BASELINE):
        got = select_frames(clips, indices)
        assert got.shape == (2, 3, len(indices), 4, 4)
        assert got[0, 0, :, 0, 0].tolist() == indices
    assert select_frames(clips, range(0, 33, 4)).data_ptr() == clips.data_ptr()  # a view


class Looker(nn.Module):
    """A backbone that keeps what it is shown."""

    def forward(self, x):
        self.seen = x
        return torch.zeros(len(x[0]), 2)


@pytest.mark.parametrize("split", ["plus_one", "aligned", "shared"])
@pytest.mark.parametrize("prompted", [(), ("slow",), ("fast",), ("slow", "fast")])
def test_pathways_see_prompts_or_frames(split, prompted):
    plan = pathway_frames(frames=8, alpha=4, prompted=prompted, split=split)
    clips = torch.randint(0, 256, (2, 3, plan.frames, 8, 8)).to(torch.uint8)
    keys = ("video",) if plan.shared else prompted
    prompts = {key: MotionPrompt(m=0.3 + i, n=0.2) for i, key in enumerate(keys)}
    model = PromptedClassifier(Looker(), prompts=prompts, pathway_frames=plan)
    out = model(clips)
    assert [x.shape[2] for x in model.backbone.seen] == [2, 8]
    assert set(out.variations) == set(keys)
    for pathway, seen in zip(("slow", "fast"), model.backbone.seen, strict=True):
        indices = list(plan.indices[pathway])
        if pathway in plan.shared:
            wanted = prompts["video"](clips).prompts[:, :, indices]
        elif pathway in prompted:
            wanted = prompts[pathway](clips[:, :, indices].contiguous()).prompts
        else:
            wanted = normalize(clips[:, :, indices], 0.45, 0.225)
        torch.testing.assert_close(seen, wanted)
    names = {"slope", "shift", "m", "n"}
    prefixes = [""] if plan.shared else [f"{p}/" for p in prompted]
    assert set(model.scalars()) == {prefix + name for prefix in prefixes for name in names}


def test_prompts_of_a_pathway_that_is_not_there_are_refused():
    """They were left out, and the model was its baseline."""
    plan = pathway_frames(frames=8, alpha=4, prompted=("slow",))
    for options, said in (
        ({}, "backbone has video"),
        ({"pathway_frames": plan}, "backbone has slow and fast"),
    ):
        with pytest.raises(ValueError, match=f"prompts on rgb: the {said}"):
            PromptedClassifier(Looker(), prompts={"rgb": MotionPrompt()}, **options)


def test_the_variation_is_summed_over_pathways():
    model, clips = small("slowfast", prompted=("slow", "fast"))
    out = model(clips)
    terms = Objective(variation_weight=3.0)(out.logits, torch.tensor([0, 1]), out.variations)
    total = out.variations["slow"] + out.variations["fast"]
    torch.testing.assert_close(terms["loss"], terms["cross_entropy"] + 3 * total)


# --- kernels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tf32", "convolutions", "products"),
    [("null", True, False), ("true", True, True), ("false", False, False)],
)
def test_kernels_of_a_gpu_are_those_of_the_config(tf32, convolutions, products):
    before = (
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
    )
    try:
        config = composed(f"trainer.tf32={tf32}", "trainer.cudnn_benchmark=true")
        set_precision_switches(config)
        now = (
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
        )
        assert now == (True, convolutions, products)
    finally:
        (
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
        ) = before
