#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <bitrain/adapters/lora.h>
#include <bitrain/nn/module.h>

namespace bitrain::adapters {

/// What attach did.
struct AttachReport {
  struct Adapted {
    std::string path;  ///< "model.layers.0.self_attn.q_proj".
    std::int64_t r = 0;
    double scale = 1.0;
    std::int64_t parameters = 0;
  };
  std::vector<Adapted> adapted;              ///< In the order of the modules.
  std::vector<std::string> trained_in_full;  ///< Paths taken by modules_to_save.
  std::vector<std::string> trained_rows;     ///< Paths taken by trainable_token_indices.
  std::int64_t trainable_parameters = 0;     ///< Elements, all kinds.
};

/// Freezes the model, a language model or an encoder, and gives it fresh adapters (float32, on the model's
/// device) as `options` says. With tied embeddings, trained rows serve the embedding and the head. Every
/// weight is a function of (seed, path), so it does not depend on what else is adapted.
///
/// Throws ConfigError when a pattern matches no module that can be adapted (the message lists those there
/// are), when nothing would be trained, when a row is outside its table or listed for a module that also has
/// an adapter, when modules_to_save names a 4-bit module; StateError when the model has adapters already.
AttachReport attach(nn::Module& model, const LoraOptions& options, std::uint64_t seed);

/// Removes adapters and trained rows; the base is left as it was.
void detach(nn::Module& model);

/// Switches all adapters on or off, for a reference model that shares the base. Trained rows stay.
void enable_adapters(nn::Module& model, bool enabled);

/// Whether `entry` of target_modules, exclude_modules or a pattern map names `path`. Plain names (letters,
/// digits, `_`, `-`, `.`) match a path or the end of one after a dot; anything else is a regular expression
/// for the whole path (text::WholePattern). Throws ConfigError for a broken expression, and when all of this
/// thread together have taken two seconds since begin_matching; those of real adapters take milliseconds.
[[nodiscard]] bool matches(const std::string& entry, const std::string& path);

/// Whether `entry` of rank_pattern or alpha_pattern names `path`, as PEFT has it: a regular expression for
/// the whole path or the end of one after a dot.
[[nodiscard]] bool matches_end(const std::string& entry, const std::string& path);

/// Before the expressions of other options: lets them take their time anew, and forgets those before.
void begin_matching();

/// Entries that a list of patterns may have: every one is held against every module.
inline constexpr std::size_t kMostPatterns = 10'000;

/// Throws ConfigError, naming the option, for a list of more.
void check_patterns(const char* option, const std::vector<std::string>& entries);

}  // namespace bitrain::adapters
