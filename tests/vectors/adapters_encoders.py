"""Vectors about encoders: BERT's folder, what is hidden from it, and the spans it answers with."""

from pathlib import Path

import numpy as np
import torch

from bloomery.finetune.spans import best_span
from bloomery.losses.classification import one_of, one_of_group
from bloomery.losses.token import IGNORE, token_nll
from bloomery.model.forest import DenseForest, Forest, roots
from bloomery.model.headed import load_headed, pooled
from bloomery.pretrain.masking import corrupted, how_many, selected
from tests.vectors.adapters_model import double


@torch.no_grad()
def hf_import_bert(inputs: dict, folder: Path) -> dict:
    """The padding is taken off, rows are roots of one forest; both backends must agree."""
    model = load_headed(folder / inputs["checkpoint"], compute=torch.float64, dtype=torch.float64)
    ids, real = torch.tensor(inputs["input_ids"]), torch.tensor(inputs["attention_mask"]).bool()
    types, segments = torch.tensor(inputs["token_type_ids"])[real], roots(real.sum(1).tolist(), causal=False)
    hidden, oracle = (model.trunk(ids[real], segments.positions, memory(segments), types)
                      for memory in (Forest, DenseForest))
    torch.testing.assert_close(hidden, oracle, atol=1e-9, rtol=1e-9)
    first, labels = pooled(hidden, segments, "first"), torch.tensor(inputs["mlm_labels"])[real]
    logits, relation = model.trunk.logits(hidden), model.read(first)
    kept = labels != IGNORE
    mlm = float(token_nll(logits[kept], labels[kept]).mean())
    nsp = float(one_of(relation, torch.tensor(inputs["next_sentence_label"])).mean())
    return {"pooler_output": model.pooler(first), "cls_last_hidden": first, "prediction_logits_row0":
            logits[:int(real[0].sum())], "seq_relationship_logits": relation, "mlm_loss": mlm, "nsp_loss": nsp,
            "total_loss": mlm + nsp}


def mlm_masking(inputs: dict, folder: Path) -> dict:
    """The choices of a text whose random numbers are given: candidate j has draw j."""
    ids, special = np.array(inputs["token_ids"]), set(inputs["special_positions"])
    count = how_many(len(ids), inputs["mask_prob"], inputs["max_predictions"])
    chosen = np.array(selected([[i] for i in inputs["selection_order"] if i not in special], count), np.int64)
    draws, others = (np.array(inputs[name])[:len(chosen)] for name in ("uniform_draws", "replacement_ids"))
    labels = np.full(len(ids), IGNORE)
    labels[chosen] = ids[chosen]
    return {"input_ids": corrupted(ids, chosen, draws, others, inputs["mask_token_id"]), "labels": labels,
            "num_selected": len(chosen)}


def qa_span_decode(inputs: dict, folder: Path) -> dict:
    start, end = double(inputs["start_logits"]), double(inputs["end_logits"])
    inside, null = np.array(inputs["context_mask"], bool), inputs["cls_index"]
    found = best_span(start.numpy(), end.numpy(), inside, longest=inputs["max_answer_length"], null=null)
    owner = torch.zeros(len(start), dtype=torch.long)
    loss = sum(float(one_of_group(scores, owner, torch.tensor([inputs[f"gold_{name}"]])))
               for scores, name in ((start, "start"), (end, "end")))
    return {"best_start": found.start, "best_end": found.end, "best_score": found.score, "null_score": found.null,
            "score_diff": found.null - found.score, "loss_sum": loss, "loss_huggingface_mean": loss / 2,
            "predict_null": found.nothing(inputs["null_score_diff_threshold"])}


ENCODERS = {"hf_import_bert": hf_import_bert, "mlm_masking": mlm_masking, "qa_span_decode": qa_span_decode}
