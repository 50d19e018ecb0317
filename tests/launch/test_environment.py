"""What each process is told of the others."""

from kedge.launch.environment import environments
from kedge.launch.supervisor import Place


def test_one_machine():
    first, second = environments([Place("a", "10.0.0.1", 8)] * 2, 4711, {})
    assert first == {
        "OMP_NUM_THREADS": "4", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "4711",
    }  # fmt: skip
    assert second == first | {"RANK": "1", "LOCAL_RANK": "1"}


def test_two_machines_with_gpus():
    """Each process sees all GPUs that its machine's processes were given, and takes the one of its own number."""
    places = [Place("a", "10.0.0.1", 6, ("3",)), Place("a", "10.0.0.1", 6, ("1",))]
    places += [Place("b", "10.0.0.2", 2, (gpu,)) for gpu in "05"]
    found = environments(places, 1, {})
    assert [each["RANK"] for each in found] == ["0", "1", "2", "3"]
    assert [each["LOCAL_RANK"] for each in found] == ["0", "1", "0", "1"]
    assert [each["GROUP_RANK"] for each in found] == ["0", "0", "1", "1"]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["3,1", "3,1", "0,5", "0,5"]
    assert [each["OMP_NUM_THREADS"] for each in found] == ["3", "3", "1", "1"]
    assert {each["MASTER_ADDR"] for each in found} == {"10.0.0.1"}


def test_two_that_share_a_name_are_two():
    found = environments([Place("node", "10.0.0.1", 2), Place("node", "10.0.0.2", 2)], 1, {})
    assert [each["LOCAL_RANK"] for each in found] == ["0", "0"]


def test_what_the_user_has_set_travels():
    said = {"OMP_NUM_THREADS": "7", "NCCL_DEBUG": "INFO", "KEDGE_PATIENCE": "5", "AWS_SECRET": "x", "RANK": "9"}
    [only] = environments([Place("a", "10.0.0.1", 8)], 1, said)
    assert only["OMP_NUM_THREADS"] == "7"
    assert only["NCCL_DEBUG"] == "INFO"
    assert only["KEDGE_PATIENCE"] == "5"
    assert only["RANK"] == "0"
    assert "AWS_SECRET" not in only
