#pragma once

#include <functional>

#include <bitrain/base/batch.h>
#include <bitrain/base/loss_sum.h>
#include <bitrain/data/loader.h>
#include <bitrain/models/language_model.h>
#include <bitrain/objectives/objective.h>
#include <bitrain/train/trainer.h>

/// From the parts of the other modules to those of the trainer. What is passed in must outlive the trainer.
/// Parameters come from adapters::trainable_parameters as they are.
namespace bitrain::train {

/// A loader as a source of steps.
[[nodiscard]] StepSource make_source(data::Loader& loader);

/// An objective on a model as a loss of batches.
[[nodiscard]] std::function<LossSum(const Batch&, const nn::ForwardContext&)> make_loss(
    models::LanguageModel& model, const objectives::Objective& objective);

}  // namespace bitrain::train
