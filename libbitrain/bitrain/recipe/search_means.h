#pragma once

#include <bitrain/io/json.h>

namespace bitrain::recipe {

/// Means over several retrieval sets: result["mean"][system][metric] from result["search"][set][system], for
/// the systems that searched every set, and the table of them. Nothing for fewer than two sets.
void add_search_means(io::Json& result);

}  // namespace bitrain::recipe
