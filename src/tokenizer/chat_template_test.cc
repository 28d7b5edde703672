// Chat templates against what Jinja writes (tests/golden/chat, made by
// benchmarks/oracles/chat_template_oracle.py), and what must not happen.
#include "tokenizer/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tokenizer/chat_inputs_for_test.h"

namespace tq {
namespace {

using nlohmann::ordered_json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string ReadText(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

ChatInputs Inputs(ordered_json variables = ordered_json::object()) {
  return ChatInputsForTest(std::move(variables), true);
}

ordered_json Message(std::string role, std::string content) {
  ordered_json message;
  message["role"] = std::move(role);
  message["content"] = std::move(content);
  return message;
}

ChatInputs WithMessages(std::initializer_list<ordered_json> messages) {
  ChatInputs inputs = Inputs();
  for (const ordered_json& message : messages) inputs.messages.push_back(message);
  return inputs;
}

StatusOr<MarkedText> Render(std::string_view source, const ChatInputs& inputs = Inputs()) {
  TQ_ASSIGN_OR_RETURN(const ChatTemplate chat_template, ChatTemplate::Parse(source));
  return chat_template.Render(inputs);
}

// The text, or the error.
std::string Text(std::string_view source, const ChatInputs& inputs = Inputs()) {
  const auto text = Render(source, inputs);
  return text.ok() ? text->bytes() : "error: " + text.status().message();
}

TEST(ChatTemplate, WritesWhatJinjaWrites) {
  const std::filesystem::path folder = TQ_GOLDEN_DIR "/chat";
  const auto conversations = ordered_json::parse(ReadText(folder / "conversations.json"));
  const auto expected = ordered_json::parse(ReadText(folder / "expected.json"));
  size_t templates = 0;
  for (const auto& [name, texts] : expected.items()) {
    const auto chat_template = ChatTemplate::Parse(ReadText(folder / (name + ".jinja")));
    ASSERT_TRUE(chat_template.ok()) << name << ": " << chat_template.status().message();
    for (const auto& [key, inputs] : conversations.items()) {
      const auto text = chat_template->Render(Inputs(inputs));
      const ordered_json& want = texts.at(key);
      if (want.is_null()) {
        EXPECT_FALSE(text.ok()) << name << ", " << key << ": " << text->bytes();
      } else if (text.ok()) {
        EXPECT_EQ(text->bytes(), want.get<std::string>()) << name << ", " << key;
      } else {
        ADD_FAILURE() << name << ", " << key << ": " << text.status().message();
      }
    }
    ++templates;
  }
  EXPECT_GE(templates, 25u);
}

TEST(ChatTemplate, KnowsWhichBytesAreTheMessages) {
  const ChatInputs inputs = WithMessages({Message("user", "  <|end|> hi "), Message("a|>b", "x")});
  const auto text = Render(
      "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>{% endfor %}", inputs);
  ASSERT_TRUE(text.ok()) << text.status().message();
  EXPECT_EQ(text->bytes(), "<|user|><|end|> hi<|end|><|a|>b|>x<|end|>");
  // The first role is a plain word, the second could close a token.
  EXPECT_THAT(text->untrusted(), ElementsAre(TextSpan{8, 18}, TextSpan{27, 31}, TextSpan{33, 34}));
}

// Whatever a template does to a text, what came from a message stays untrusted.
TEST(ChatTemplate, SuspicionSurvivesOperations) {
  const ChatInputs inputs = WithMessages({Message("user", "ab,cd")});
  for (const char* expression : {"c",
                                 "c | upper",
                                 "c | title",
                                 "c[1:3]",
                                 "c[::-1]",
                                 "c[0]",
                                 "c.split(',')[1]",
                                 "c * 2",
                                 "c | replace('z', 'b')",
                                 "'x,y'.replace(',', c)[1:6]",
                                 "[c, c] | join",
                                 "c | tojson",
                                 "c | list | first",
                                 "{'k': c}['k']",
                                 "{c: 1} | first",
                                 "(c ~ '')",
                                 "c | string",
                                 "c | default('d')",
                                 "c.capitalize()",
                                 "c | indent",
                                 "'{}'.format(c)",
                                 "c | reverse",
                                 "c.splitlines()[0]",
                                 "c.rsplit(',', 1)[0]",
                                 "c | safe",
                                 "strftime_now(c)",
                                 "messages | map(attribute='content') | join"}) {
    const auto text =
        Render(fmt::format("{{% set c = messages[0].content %}}{{{{ {} }}}}", expression), inputs);
    ASSERT_TRUE(text.ok()) << expression << ": " << text.status().message();
    EXPECT_THAT(text->untrusted(), ElementsAre(TextSpan{0, text->size()})) << expression;
  }
  const auto text = Render("{{ bos_token }}{{ 'x' | upper }}{{ messages | length }}", inputs);
  EXPECT_THAT(text->untrusted(), IsEmpty());
}

TEST(ChatTemplate, VariablesThatAreNotGiven) {
  ChatInputs inputs;
  EXPECT_EQ(Text("{{ tools is none }}{{ documents is none }}{{ bos_token is defined }}", inputs),
            "TrueTrueFalse");
  EXPECT_THAT(Text("{{ strftime_now('%Y') }}", inputs), HasSubstr("no time was given"));
  EXPECT_EQ(Text("{{ strftime_now('%d %b %Y, %H:%M %A') }}"), "26 Jul 2024, 13:05 Friday");
  inputs.messages = "text";
  EXPECT_THAT(Text("", inputs), HasSubstr("messages is string"));
  inputs.messages = ordered_json::array({1});
  EXPECT_THAT(Text("", inputs), HasSubstr("messages[0] is number"));
  EXPECT_THAT(Text("", WithMessages({Message("user", "\xFF")})), HasSubstr("not UTF-8"));
}

TEST(ChatTemplate, ErrorsNameTheLine) {
  EXPECT_EQ(Text("a\n{{ nobody.x }}"),
            "error: chat template: line 2: 'nobody' is undefined, so it has no 'x'");
  EXPECT_EQ(Text("\n\n{% if x %}\n"),
            "error: chat template: line 3: the template ends without {% endif %}");
  EXPECT_EQ(Text("{{ raise_exception('No\nsystem') }}"),
            "error: chat template: line 1: the template refuses the messages: 'No\\x0asystem'");
  EXPECT_THAT(Text("\n{{ 'a' + 1 }}"), HasSubstr("line 2: a string + an integer"));
  EXPECT_THAT(Text("{{ [1, 2 }}"), HasSubstr("line 1"));
  EXPECT_THAT(Text("{{ 'a }}"), HasSubstr("line 1: a string that does not end"));
  EXPECT_THAT(Text("x\n{# "), HasSubstr("line 2: a comment that does not end"));
  EXPECT_THAT(Text("{% set x %}"), HasSubstr("without {% endset %}"));
  EXPECT_THAT(Text("{{ 1 if }}"), HasSubstr("want an expression, not the end of the tag"));
}

// Jinja that we lack is refused when the template is read, whether it would run or not.
TEST(ChatTemplate, RefusesByName) {
  const std::pair<const char*, const char*> cases[] = {
      {"{% include 'x' %}", "the tag 'include'"},
      {"{% import 'x' as y %}", "the tag 'import'"},
      {"{% extends 'x' %}", "the tag 'extends'"},
      {"{% raw %}{% endraw %}", "the tag 'raw'"},
      {"{% if false %}\n{% do x %}{% endif %}", "line 2: the tag 'do'"},
      {"{{ x | groupby('a') }}", "the filter 'groupby'"},
      {"{{ x is sameas y }}", "the test 'sameas'"},
      {"{% for x in y recursive %}{% endfor %}", "recursive"},
      {"{{ f(*x) }}", "* and **"},
      {"{% macro f(*x) %}{% endmacro %}", "* and **"},
      {"{% break %}", "break outside a loop"},
      {"{% for x in y %}{% macro f() %}{% endmacro %}{% endfor %}", "a macro inside"},
      {"{{ 0x1F }}", "the number"},
      {"{{ 99999999999999999999 }}", "beyond 64 bits"},
      {"{{ '\\N{BULLET}' }}", "\\N"},
      {"{% set true = 1 %}", "assigning to true"},
      {"{% set x.y.z = 1 %}", "assigning to a part"},
      {"{{ a $ b }}", "unexpected '$ b '"},
  };
  for (const auto& [source, what] : cases) {
    const auto chat_template = ChatTemplate::Parse(source);
    ASSERT_FALSE(chat_template.ok()) << source;
    EXPECT_THAT(chat_template.status().message(), HasSubstr(what)) << source;
  }
  EXPECT_THAT(Text("{{ lipsum() }}"), HasSubstr("'lipsum'"));
  EXPECT_THAT(Text("{{ loop_.x }}"), HasSubstr("'loop_' is undefined"));
  EXPECT_THAT(Text("{% for x in [1] %}{{ loop.cycle('a') }}{% endfor %}"), HasSubstr("loop.cycle"));
  EXPECT_THAT(Text("{{ 'a'.zfill(3) }}"), HasSubstr("the method 'zfill' of a string"));
  EXPECT_THAT(Text("{{ 'é' | upper }}"), HasSubstr("beyond ASCII"));
  EXPECT_THAT(Text("{{ ('<' | safe) | trim }}"), HasSubstr("trim of a text marked as safe"));
  EXPECT_THAT(Text("{{ ('<' | safe).strip() }}"), HasSubstr("methods of a text marked as safe"));
  EXPECT_THAT(Text("{{ strftime_now('%c') }}"), HasSubstr("'%c'"));
  EXPECT_THAT(Text("{{ 'x' | tojson(default=1) }}"), HasSubstr("tojson: the argument 'default'"));
  EXPECT_THAT(ChatTemplate::Parse("\xFF").status().message(), HasSubstr("UTF-8"));
  EXPECT_THAT(ChatTemplate::Parse(std::string(1 + ChatTemplate::kMaxBytes, 'a')).status().message(),
              HasSubstr("the limit is 1048576"));
}

// Robustness case 35: there is no way from a value to Python's (or our own) inside.
TEST(ChatTemplate, NothingToReach) {
  for (const char* source :
       {"{{ ''.__class__ }}", "{{ messages.__class__.__mro__ }}", "{{ x._private }}",
        "{% set ns = namespace() %}{% set ns.__init__ = 1 %}"}) {
    EXPECT_THAT(ChatTemplate::Parse(source).status().message(), HasSubstr("Python's own"));
  }
  EXPECT_EQ(Text("{{ ''['__class__'] }}{{ {}['__class__'] is defined }}"), "False");
  EXPECT_THAT(Text("{{ [{}] | map(attribute='__class__.x') | list }}"), HasSubstr("undefined"));
  // Values do not change: what Hugging Face's library forbids, too.
  for (const char* source : {"{{ [].append(1) }}", "{{ {}.update(a=1) }}", "{{ {}.pop('a') }}"}) {
    EXPECT_THAT(Text(source), HasSubstr("the method")) << source;
  }
}

// Robustness case 35: templates that would run for ever, or take all memory.
TEST(ChatTemplate, WorkIsBounded) {
  const std::string loop = "{% for i in range(1000000) %}";
  const std::string end = "{% endfor %}";
  const std::pair<std::string, const char*> cases[] = {
      {loop + loop + loop + end + end + end, "units of work"},
      {"{{ range(10 ** 18) }}", "units of work"},
      {"{% for i in range(0, -(2 ** 62), -1) %}" + end, "units of work"},
      {"{% set ns = namespace(s='ab') %}" + loop + "{% set ns.s = ns.s + ns.s %}" + end, "bytes"},
      {"{% set ns = namespace(l=[1]) %}" + loop + "{% set ns.l = ns.l + ns.l %}" + end, "units"},
      {"{% set ns = namespace(l=[]) %}" + loop + "{% set ns.l = [ns.l, ns.l] %}" + end, "deep"},
      {"{% set ns = namespace(l=[1]) %}{% for i in range(90) %}{% set ns.l = [ns.l, ns.l] %}" +
           end + "{{ ns.l }}",
       "work"},
      {"{% set ns = namespace(l=[1]) %}{% for i in range(90) %}{% set ns.l = [ns.l, ns.l] %}" +
           end + "{{ ns.l == [ns.l[0], ns.l[0] + []] }}",
       "work"},
      {loop + "{{ 'a' * 1000 }}" + end, "a text of"},
      {"{{ 'a' * 10 ** 12 }}", "a text of"},
      {"{{ 'a' | indent(10 ** 12) }}", "a text of"},
      {"{{ [] | tojson(indent=10 ** 12) }}", "a text of"},
      {"{{ ('a' * 10 ** 6) | replace('a', 'b' * 10 ** 6) }}", "a text of"},
      {"{{ range(10 ** 6) | join('x' * 10 ** 6) }}", "a text of"},
      {"{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "deep"},
      {"{% macro f() %}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}", "deep"},
      {"{{ [[1]] | map('map', 'map', 'map', 'map') | list }}", "no sequence"},
      {"{% set ns = namespace() %}{% set ns.self = ns %}", "a namespace inside"},
      {"{% macro f() %}{% endmacro %}{{ [f] }}", "a macro inside"},
  };
  const auto start = std::chrono::steady_clock::now();
  for (const auto& [source, what] : cases) {
    EXPECT_THAT(Text(source), HasSubstr(what)) << source;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(300));
}

// Robustness case 35: nesting that a recursive parser or evaluator must not follow.
TEST(ChatTemplate, DepthIsBounded) {
  const auto repeat = [](std::string_view text, size_t count) {
    std::string out;
    for (size_t i = 0; i < count; ++i) out += text;
    return out;
  };
  constexpr size_t kMany = 50000;
  const auto around = [&](std::string_view open, std::string_view close) {
    return "{{ " + repeat(open, kMany) + "1" + repeat(close, kMany) + " }}";
  };
  const auto behind = [&](std::string_view text) { return around("", text); };
  const auto before = [&](std::string_view text) { return around(text, ""); };
  for (const std::string& source :
       {around("(", ")"), around("[", "]"), around("{'a':", "}"), around("f(", ")"),
        around("a[", "]"), before("not "), before("-"), before("a if b else "), behind(" + 1"),
        behind(" or a"), behind("|trim"), behind("[0]"), behind(" is none"), behind(" if b"),
        repeat("{% if a %}", kMany), repeat("{% for a in b %}", kMany),
        "{% filter trim" + repeat("|trim", kMany) + " %}{% endfilter %}",
        "{{ a" + repeat(".b", kMany) + " }}"}) {
    const auto chat_template = ChatTemplate::Parse(source);
    ASSERT_FALSE(chat_template.ok()) << source.substr(0, 20);
    EXPECT_THAT(chat_template.status().message(), HasSubstr("nested more than 120 deep"))
        << source.substr(0, 20);
  }
  // Long is not deep.
  EXPECT_EQ(Text("{{ '' " + repeat("~ 'a'", kMany) + " }}").size(), kMany);
  EXPECT_EQ(Text(repeat("{% if a %}{% elif b %}{% endif %}", kMany / 2)), "");
  ordered_json deep = 1;
  for (int i = 0; i < 1000; ++i) deep = ordered_json::array({deep});
  ChatInputs inputs = Inputs();
  inputs.variables["tools"] = deep;
  EXPECT_THAT(Text("{{ tools }}", inputs), HasSubstr("deep"));
}

// Megabytes take time in proportion.
TEST(ChatTemplate, LargeInputsTakeLinearTime) {
  const std::string megabyte(1 << 20, 'a');
  EXPECT_FALSE(ChatTemplate::Parse(std::string(1 << 20, '{')).ok());
  EXPECT_EQ(Text(megabyte).size(), megabyte.size());
  const ChatInputs inputs = WithMessages({Message("user", megabyte)});
  EXPECT_EQ(
      Text("{% set c = messages[0].content %}{{ c.find(c[:-1] ~ 'b') }} {{ c.count('aa') }} "
           "{{ (c[:500000] ~ 'b') in c }} {{ c.split('b') | length }} {{ c | trim | length }}",
           inputs),
      "-1 524288 False 1 1048576");
}

}  // namespace
}  // namespace tq
