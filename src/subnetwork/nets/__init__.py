"""Networks as named tensors: the layout of a model, its cut, its local work, its merge (torch)."""

from subnetwork.nets.architecture import MLP, Architecture, initial_state, runnable
from subnetwork.nets.calibrate import accuracy, recalibrate
from subnetwork.nets.data import Batches, DataSet, load
from subnetwork.nets.decompose import decompose, plan_from
from subnetwork.nets.layout import Layout
from subnetwork.nets.local import Gradients, LocalSteps
from subnetwork.nets.merges import Outer, StepOnGradients, holders
from subnetwork.nets.partition import NetPartition, NetSketch
from subnetwork.nets.plan import Plan
from subnetwork.nets.state import ABSENT, ModelState, Submodel

__all__ = [
    "ABSENT",
    "MLP",
    "Architecture",
    "Batches",
    "DataSet",
    "Gradients",
    "Layout",
    "LocalSteps",
    "ModelState",
    "NetPartition",
    "NetSketch",
    "Outer",
    "Plan",
    "StepOnGradients",
    "Submodel",
    "accuracy",
    "decompose",
    "holders",
    "initial_state",
    "load",
    "plan_from",
    "recalibrate",
    "runnable",
]
