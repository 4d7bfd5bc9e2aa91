"""Meshes of Auto type over the devices asked for."""

import jax
import pytest
from jax.sharding import AxisType

from probjax import sharding


def test_all_devices_or_the_first_few():
    assert sharding.make_mesh().size == 8
    mesh = sharding.make_mesh(3, axis="chains")
    assert mesh.axis_names == ("chains",)
    assert mesh.axis_types == (AxisType.Auto,)
    assert list(mesh.devices) == jax.devices()[:3]
    assert list(sharding.make_mesh(devices=jax.devices()[4:6]).devices) == jax.devices()[4:6]


def test_auto_mesh_keeps_devices_and_names():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)
    auto = sharding.auto_mesh(mesh)
    assert auto.axis_types == (AxisType.Auto,) * 2
    assert (auto.devices == mesh.devices).all()
    assert auto.axis_names == ("a", "b")


def test_errors():
    with pytest.raises(ValueError, match="num_devices=9 but only 8 cpu devices are there"):
        sharding.make_mesh(9)
    with pytest.raises(ValueError, match="num_devices must be at least 1, got 0"):
        sharding.make_mesh(0)
