#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include <bitrain/dist/communicator.h>
#include <bitrain/io/json.h>
#include <bitrain/recipe/recipe.h>

namespace bitrain::recipe {

/// What a run left behind.
struct RunResult {
  std::filesystem::path dir;
  io::Json summary;  ///< As in summary.json (docs/formats.md).
  int signal = 0;    ///< SIGINT or SIGTERM when one ended the run; running it again goes on.
};

/// Runs the stages in order. Each writes "<dir>/<name>/", which appears whole, with stage.json (what
/// it was made from, and its figures) inside. A stage that is there already, made from the same options and
/// inputs, is skipped; a training stage that was interrupted goes on from its last checkpoint. After each
/// stage summary.json and report.html are written anew.
///
/// All `ranks` call it with the same recipe, and see the same folder. Stages that train are run by all of
/// them, the others by rank 0 while the rest waits. Only rank 0's summary is whole.
///
/// Throws StateError when another process runs in the folder, and whatever a stage throws, with the stage's
/// name in front.
RunResult run(const Recipe& recipe,
              const std::shared_ptr<dist::Communicator>& ranks = std::make_shared<dist::Communicator>());

}  // namespace bitrain::recipe
