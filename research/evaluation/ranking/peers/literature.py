"""Recommenders of the literature, by the names that the command line gives them."""

from __future__ import annotations

from collections.abc import Mapping

from research.evaluation.ranking.peers import (
    ease,
    ials,
    item_knn,
    popularity,
    sasrec,
    session_knn,
)
from research.evaluation.ranking.peers.peer import Peer

PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (popularity.PEER, item_knn.PEER, ials.PEER, ease.PEER, ease.RECENT, session_knn.PEER, sasrec.PEER)
}
