#include <bitrain/text/tokenizer_classes.h>

#include <algorithm>

#include <bitrain/base/strings.h>
#include <bitrain/text/json_fields.h>

namespace bitrain::text {
namespace {

struct Known {
  std::string_view name;
  TokenizerRule rule;
  std::string_view model_types;  ///< Of config.json, whose class it is where no file names one.
};

// Read from transformers 5.23 (TOKENIZER_MAPPING_NAMES, and which classes have a constructor of their own).
constexpr Known kClasses[] = {
    {"AlbertTokenizer", TokenizerRule::kOther, "albert yoso"},
    {"BartTokenizer", TokenizerRule::kRoberta, "florence2"},
    {"BarthezTokenizer", TokenizerRule::kOther, "barthez"},
    {"BartphoTokenizer", TokenizerRule::kOther, "bartpho"},
    {"BertGenerationTokenizer", TokenizerRule::kOther, "bert-generation"},
    {"BertJapaneseTokenizer", TokenizerRule::kOther, "bert-japanese"},
    {"BertTokenizer", TokenizerRule::kBert,
     "align bark bert blip bros chinese_clip convbert distilbert electra ernie flava "
     "git grounding-dino layoutlm megatron-bert mm-grounding-dino nezha nomic_bert "
     "qdqbert realm retribert squeezebert tvp vilt visual_bert"},
    {"BertweetTokenizer", TokenizerRule::kOther, "bertweet"},
    {"BigBirdTokenizer", TokenizerRule::kOther, "big_bird"},
    {"BioGptTokenizer", TokenizerRule::kOther, "biogpt"},
    {"BlenderbotSmallTokenizer", TokenizerRule::kOther, "blenderbot-small"},
    {"BlenderbotTokenizer", TokenizerRule::kOther, "blenderbot"},
    {"ByT5Tokenizer", TokenizerRule::kOther, "byt5"},
    {"CLIPTokenizer", TokenizerRule::kOther,
     "aimv2 clip clipseg groupvit omdet-turbo oneformer owlv2 owlvit sam3 sam3_video "
     "xclip"},
    {"CTRLTokenizer", TokenizerRule::kOther, "ctrl"},
    {"CamembertTokenizer", TokenizerRule::kCamembert, "camembert"},
    {"CanineTokenizer", TokenizerRule::kOther, "canine"},
    {"ClvpTokenizer", TokenizerRule::kOther, "clvp"},
    {"CodeLlamaTokenizer", TokenizerRule::kOther, "code_llama"},
    {"CohereTokenizer", TokenizerRule::kOther, "aya_vision cohere cohere2"},
    {"CpmAntTokenizer", TokenizerRule::kOther, "cpmant"},
    {"CpmTokenizer", TokenizerRule::kOther, "cpm"},
    {"DPRQuestionEncoderTokenizer", TokenizerRule::kOther, "dpr"},
    {"DebertaTokenizer", TokenizerRule::kOther, "deberta"},
    {"DebertaV2Tokenizer", TokenizerRule::kOther, "deberta-v2"},
    {"DiaTokenizer", TokenizerRule::kOther, "dia"},
    {"DistilBertTokenizer", TokenizerRule::kBert, ""},
    {"EsmTokenizer", TokenizerRule::kOther, "esm"},
    {"EsmcTokenizer", TokenizerRule::kOther, "esmc esmfold2"},
    {"FNetTokenizer", TokenizerRule::kOther, "fnet"},
    {"FSMTTokenizer", TokenizerRule::kOther, "fsmt"},
    {"FlaubertTokenizer", TokenizerRule::kOther, "flaubert"},
    {"FunnelTokenizer", TokenizerRule::kOther, "funnel"},
    {"GPT2Tokenizer", TokenizerRule::kGpt2,
     "blip-2 codegen dbrx emu3 gpt2 gpt_neo gptj hyperclovax_vision_v2 instructblip "
     "instructblipvideo jais2 opt phi starcoder2"},
    {"GPTNeoXJapaneseTokenizer", TokenizerRule::kOther, "gpt_neox_japanese"},
    {"GPTNeoXTokenizer", TokenizerRule::kGptNeoX,
     "falcon_mamba gpt_neox mamba mamba2 mpt olmo olmoe rwkv xlstm"},
    {"GPTSw3Tokenizer", TokenizerRule::kOther, "gpt-sw3"},
    {"GemmaTokenizer", TokenizerRule::kGemma,
     "diffusion_gemma gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text "
     "recurrent_gemma shieldgemma2 t5gemma zaya"},
    {"HerbertTokenizer", TokenizerRule::kOther, "herbert"},
    {"LEDTokenizer", TokenizerRule::kRoberta, "led"},
    {"LasrTokenizer", TokenizerRule::kOther, "lasr_ctc lasr_encoder"},
    {"LayoutLMv2Tokenizer", TokenizerRule::kOther, "layoutlmv2"},
    {"LayoutLMv3Tokenizer", TokenizerRule::kOther, "layoutlmv3"},
    {"LayoutXLMTokenizer", TokenizerRule::kOther, "layoutxlm"},
    {"LlamaTokenizer", TokenizerRule::kLlama, "idefics idefics2"},
    {"LukeTokenizer", TokenizerRule::kOther, "luke"},
    {"LxmertTokenizer", TokenizerRule::kBert, "lxmert"},
    {"M2M100Tokenizer", TokenizerRule::kOther, "m2m_100"},
    {"MBart50Tokenizer", TokenizerRule::kOther, "mbart50"},
    {"MBartTokenizer", TokenizerRule::kOther, "mbart"},
    {"MLukeTokenizer", TokenizerRule::kOther, "mluke"},
    {"MPNetTokenizer", TokenizerRule::kOther, "mpnet"},
    {"MarianTokenizer", TokenizerRule::kOther, "marian"},
    {"MarkupLMTokenizer", TokenizerRule::kOther, "markuplm"},
    {"MgpstrTokenizer", TokenizerRule::kOther, "mgp-str"},
    {"MobileBertTokenizer", TokenizerRule::kBert, "mobilebert"},
    {"MvpTokenizer", TokenizerRule::kRoberta, "mvp"},
    {"MyT5Tokenizer", TokenizerRule::kOther, "myt5"},
    {"NllbTokenizer", TokenizerRule::kOther, "nllb nllb-moe"},
    {"NougatTokenizer", TokenizerRule::kOther, "nougat pp_formulanet"},
    {"OpenAIGPTTokenizer", TokenizerRule::kOther, "openai-gpt"},
    {"PLBartTokenizer", TokenizerRule::kOther, "plbart"},
    {"ParakeetTokenizer", TokenizerRule::kJson,
     "granite_speech5_ctc nemotron3_5_asr nemotron_asr_streaming parakeet_ctc "
     "parakeet_rnnt parakeet_tdt"},
    {"PegasusTokenizer", TokenizerRule::kOther, "pegasus"},
    {"PerceiverTokenizer", TokenizerRule::kOther, "perceiver"},
    {"PhobertTokenizer", TokenizerRule::kOther, "phobert"},
    {"PreTrainedTokenizer", TokenizerRule::kJson, ""},
    {"ProphetNetTokenizer", TokenizerRule::kOther, "prophetnet"},
    {"Qwen2Tokenizer", TokenizerRule::kQwen2,
     "audioflamingo3 colqwen2 cosmos3_omni dots3_note fun_asr_nano hunyuan_vl "
     "internvl lighton_ocr moss_transcribe_diarize ovis2 qianfan_ocr qwen2 "
     "qwen2_5_omni qwen2_5_vl qwen2_audio qwen2_moe qwen2_vl qwen3 qwen3_asr "
     "qwen3_moe qwen3_next qwen3_omni_moe qwen3_vl qwen3_vl_moe vibevoice"},
    {"Qwen3_5Tokenizer", TokenizerRule::kOther,
     "qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen4_exp"},
    {"RagTokenizer", TokenizerRule::kOther, "rag"},
    {"ReformerTokenizer", TokenizerRule::kOther, "reformer"},
    {"RemBertTokenizer", TokenizerRule::kOther, "rembert"},
    {"RoCBertTokenizer", TokenizerRule::kOther, "roc_bert"},
    {"RoFormerTokenizer", TokenizerRule::kOther, "roformer"},
    {"RobertaTokenizer", TokenizerRule::kRoberta,
     "bart bridgetower clap data2vec-text ibert lilt longformer mega mra roberta "
     "roberta-prelayernorm"},
    {"SeamlessM4TTokenizer", TokenizerRule::kOther, "seamless_m4t seamless_m4t_v2"},
    {"Siglip2Tokenizer", TokenizerRule::kOther, "siglip2"},
    {"SiglipTokenizer", TokenizerRule::kOther, "siglip"},
    {"Speech2TextTokenizer", TokenizerRule::kOther, "speech_to_text"},
    {"SpeechT5Tokenizer", TokenizerRule::kOther, "speecht5"},
    {"SplinterTokenizer", TokenizerRule::kOther, "splinter"},
    {"SqueezeBertTokenizer", TokenizerRule::kBert, ""},
    {"T5Tokenizer", TokenizerRule::kOther, "mt5 musicgen musicgen_melody switch_transformers t5"},
    {"TapasTokenizer", TokenizerRule::kOther, "tapas"},
    {"Tipsv2Tokenizer", TokenizerRule::kOther, "tipsv2"},
    {"TokenizersBackend", TokenizerRule::kJson,
     "EvollaModel arctic aria beam bigbird_pegasus camembertv2-base canary chatlm "
     "cohere_asr ernie4_5 ernie4_5_moe flex_olmo fuyu glm glm4 glm4_moe glm4_moe_lite "
     "glm4v glm4v_moe glm_image glmasr got_ocr2 gpt_bigcode gradium_phonon_tts "
     "granite granitemoe granitemoehybrid granitemoeshared h2ovl_chat hyperclovax "
     "hyperclovax_vlm internlm2 internlm3 iquestcoder jamba kimi_k25 kimi_linear "
     "kosmos-2 llava llava_next mimo_v2_flash minicpm3 minicpm_ocr minicpmv "
     "minicpmv4_6 minicpmv4_7 minimax_m2 ministral ministral3 mistral mistral3 "
     "mistral_large4 mixtral modernbert modernbert-decoder molmo molmo2 nemo_speechlm "
     "nemotron nvfp4 nystromformer olmo2 olmo3 olmo_hybrid opencua openvla "
     "paddleocr_vl pegasus_x persimmon phi3 phi3_v phimoe pix2struct pixtral "
     "pocket_tts smolvlm stablelm step3_vl umt5 vipllava voxtral voxtral_realtime "
     "xlm-roberta-xl"},
    {"UdopTokenizer", TokenizerRule::kOther, "udop"},
    {"VideoPrismTokenizer", TokenizerRule::kOther, "videoprism"},
    {"VitsTokenizer", TokenizerRule::kOther, "vits"},
    {"Wav2Vec2CTCTokenizer", TokenizerRule::kOther,
     "data2vec-audio hubert unispeech unispeech-sat wav2vec2 wav2vec2-bert "
     "wav2vec2-conformer"},
    {"Wav2Vec2PhonemeCTCTokenizer", TokenizerRule::kOther, "wav2vec2_phoneme"},
    {"WhisperTokenizer", TokenizerRule::kOther, "whisper"},
    {"XGLMTokenizer", TokenizerRule::kOther, "xglm"},
    {"XLMRobertaTokenizer", TokenizerRule::kXlmRoberta,
     "gte jina_embeddings_v3 metaclip_2 trocr xlm-roberta xmod"},
    {"XLMTokenizer", TokenizerRule::kOther, "xlm"},
    {"XLNetTokenizer", TokenizerRule::kOther, "xlnet"},
};

// Classes of that kind that no model type names.
constexpr std::string_view kOtherClasses =
    "CodeGenTokenizer ConvBertTokenizer DPRContextEncoderTokenizer "
    "DPRReaderTokenizer FastSpeech2ConformerTokenizer Pop2PianoTokenizer";

// Model types whose folders name a class that transformers knows to be wrong
// (MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS).
constexpr std::string_view kNamedWrongly =
    "arctic camembertv2-base chatlm cohere_asr ernie4_5 ernie4_5_moe fuyu h2ovl_chat "
    "hyperclovax hyperclovax_vision_v2 hyperclovax_vlm internlm2 internlm3 "
    "iquestcoder jamba llava llava_next minicpm3 minicpmv minimax_m2 modernbert "
    "modernbert-decoder molmo molmo2 nemotron nvfp4 opencua openvla paddleocr_vl "
    "phi3 phi3_v phimoe qwen2 qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen4_exp siglip2 "
    "smolvlm step3_vl vipllava";

bool lists(std::string_view words, std::string_view word) {
  for (std::size_t at = words.find(word); !word.empty() && at != std::string_view::npos;
       at = words.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    if ((at == 0 || words[at - 1] == ' ') && (end == words.size() || words[end] == ' ')) return true;
  }
  return false;
}

std::string without_fast(std::string name) {
  if (ends_with(name, "Fast")) name.resize(name.size() - 4);
  return name;
}

/// The class of that name; an unknown one is transformers' own, which takes tokenizer.json as it stands.
TokenizerClass class_named(const std::string& name, const std::string& named_by) {
  const std::string stem = without_fast(name);
  const auto* known = std::find_if(std::begin(kClasses), std::end(kClasses),
                                   [&](const Known& one) { return one.name == stem; });
  TokenizerRule rule = TokenizerRule::kJson;
  if (known != std::end(kClasses))
    rule = known->rule;
  else if (lists(kOtherClasses, stem))
    rule = TokenizerRule::kOther;
  return {name, rule, named_by};
}

const Known* class_of_model(const std::string& model_type) {
  const auto* found = std::find_if(std::begin(kClasses), std::end(kClasses),
                                   [&](const Known& one) { return lists(one.model_types, model_type); });
  return found == std::end(kClasses) ? nullptr : found;
}

}  // namespace

TokenizerClass tokenizer_class_of(const TokenizerFolder& folder, bool byte_level) {
  const std::string config_name = folder.where("tokenizer_config.json");
  const io::Json& code = member(folder.config, "auto_map", config_name);
  const bool has_remote_code =
      code.is_array() || (code.is_object() && !member(code, "AutoTokenizer", config_name).is_null());
  std::string named = optional_field<std::string>(folder.config, "tokenizer_class", config_name).value_or("");
  std::string named_by = "tokenizer_config.json";
  if (named.empty()) {
    named = folder.model_class;
    named_by = "config.json";
  }
  const Known* registered = class_of_model(folder.model_type);
  const bool wrongly = lists(kNamedWrongly, folder.model_type);
  const TokenizerClass as_it_stands{named, TokenizerRule::kJson, named_by};
  if (!has_remote_code && without_fast(named) == "LlamaTokenizer" && !wrongly && byte_level)
    return as_it_stands;
  if (!has_remote_code && !named.empty() && registered != nullptr &&
      registered->name != without_fast(named)) {
    if (registered->rule == TokenizerRule::kJson) return as_it_stands;
    if (wrongly) return {std::string(registered->name), registered->rule, "config.json"};
    return class_named(named, named_by);
  }
  if (!named.empty()) return class_named(named, named_by);
  if (registered != nullptr) return {std::string(registered->name), registered->rule, "config.json"};
  return {"", TokenizerRule::kJson, ""};
}

}  // namespace bitrain::text
