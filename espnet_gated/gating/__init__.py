"""Gates: context, predictor, sampler, sparsity loss, costs and budgets. Plain torch, no ESPnet."""
