#include <nlohmann/json.hpp>

#include <bitrain/base/error.h>
#include <bitrain/data/loader.h>

namespace bitrain::data {

using Json = nlohmann::ordered_json;

Json to_json(const Cursor& cursor) {
  Json sources = Json::array();
  for (std::size_t i = 0; i < cursor.mixture.sources.size(); ++i) {
    const MixtureState::PerSource& source = cursor.mixture.sources[i];
    sources.push_back({{"source", cursor.sources.at(i)},
                       {"samples", source.samples},
                       {"dropped", source.dropped},
                       {"tokens", source.tokens},
                       {"credit", source.credit}});
  }
  Json carried = Json::array();
  for (const Cursor::Carried& piece : cursor.carried) {
    carried.push_back(
        {{"source", piece.source}, {"sample", piece.sample}, {"begin", piece.begin}, {"end", piece.end}});
  }
  return {{"step", cursor.step}, {"sources", std::move(sources)}, {"carried", std::move(carried)}};
}

Cursor cursor_from_json(const Json& json) {
  try {
    Cursor cursor;
    cursor.step = json.at("step").get<std::int64_t>();
    for (const Json& source : json.at("sources")) {
      cursor.sources.push_back(source.at("source").get<std::string>());
      MixtureState::PerSource state;
      state.samples = source.at("samples").get<std::int64_t>();
      state.dropped = source.at("dropped").get<std::int64_t>();
      state.tokens = source.at("tokens").get<std::int64_t>();
      state.credit = source.at("credit").get<double>();
      cursor.mixture.sources.push_back(state);
    }
    for (const Json& piece : json.at("carried")) {
      cursor.carried.push_back({piece.at("source").get<std::int64_t>(),
                                piece.at("sample").get<std::int64_t>(), piece.at("begin").get<std::int64_t>(),
                                piece.at("end").get<std::int64_t>()});
    }
    return cursor;
  } catch (const Json::exception& error) {
    throw FormatError("not the position of a data loader: ", error.what());
  }
}

}  // namespace bitrain::data
