"""Two processes of two devices and four of one: the same devices, the same sums, bit for bit (launch/soak.sh hosts)."""

from test_hosts import BARE, SHORT, cluster, config, folder, rows

__all__ = ["config", "folder"]  # fixtures


def test_processes_of_the_same_devices_are_the_same_run(config, folder):
    found = []
    for processes, devices in ((2, 2), (4, 1)):
        done = cluster(processes, devices, config, folder / f"by{processes}", *SHORT, *BARE)
        assert done.returncode == 0, done.stdout + done.stderr
        found.append(rows(folder / f"by{processes}"))
    assert found[0] == found[1] and len(found[0]) == 4
