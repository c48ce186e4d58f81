"""Who reads which partition: Faust's co-partitioning assignor, told how many partitions there are.

Faust asks the broker's metadata. Those of a broker that has just come back lack topics for a moment; a group that
rebalances in it would agree that nobody reads them, until the metadata are fetched again some minutes later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from faust.assignor import PartitionAssignor


class Configured(NamedTuple):
    """What the assignor asks of a cluster, answered by `kafka.partitions`; workers check at start that it is so."""

    partitions: int

    def partitions_for_topic(self, _: str) -> set[int]:
        """The partitions of any input topic."""
        return set(range(self.partitions))


class LaneAssignor(PartitionAssignor):  # type: ignore[misc]
    """Assigns a partition of all inputs to one worker."""

    def assign(self, cluster: object, member_metadata: Mapping[str, Any]) -> Any:
        """Called in the group's leader, whatever its metadata say."""
        return super().assign(Configured(self.app.conf.topic_partitions), member_metadata)
