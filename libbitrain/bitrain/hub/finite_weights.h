#pragma once

#include <string>

#include <ATen/core/Tensor.h>

namespace bitrain::hub {

/// Holds a tensor of a weight file, on the CPU, against being no number: throws DivergedError with the place
/// and value of the first element that is NaN or infinite ("base/model.safetensors: model.norm.weight holds
/// nan at element 3 of 64"). Types of whole numbers have no such element. Reads the tensor once, on all
/// threads.
void check_finite(const at::Tensor& stored, const std::string& file, const std::string& name);

}  // namespace bitrain::hub
