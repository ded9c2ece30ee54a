"""How the generations do among those whom they were shown to."""

from __future__ import annotations

from fastapi import APIRouter

from service.entrypoints.http import problems
from service.entrypoints.http.online import Online
from service.entrypoints.http.quality_schemas import QualityAnswer

router = APIRouter(tags=["quality"])


@router.get("/quality", responses=problems.documented(500, 503))
def read_quality(online: Online) -> QualityAnswer:
    """Hit rate and click-through of each generation, computed from what is held now: nothing of the forgotten is in them."""
    return QualityAnswer.of(online.ledger.impressions.quality(), online.ledger.generation())
