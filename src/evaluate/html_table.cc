#include "evaluate/html_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/status.h"
#include "evaluate/markup.h"

namespace tq {

std::string HtmlTable::Markup(bool tall) const {
  std::vector<bool> shown(columns.size());
  for (const Row& row : rows) {
    TQ_CHECK(row.cells.size() == columns.size());
    for (size_t i = 0; i < columns.size(); ++i) shown[i] = shown[i] || !row.cells[i].empty();
  }
  const auto number = [&](size_t i) { return columns[i].number ? " class=\"n\"" : ""; };
  // A box that scrolls must be reachable by keyboard.
  std::string out = fmt::format("<div class=\"scroll{}\" tabindex=\"0\"><table>\n<thead><tr>",
                                tall ? " tall" : "");
  for (size_t i = 0; i < columns.size(); ++i) {
    if (!shown[i]) continue;
    out += fmt::format("<th scope=\"col\"{}>{}</th>", number(i), EscapeMarkup(columns[i].name));
  }
  out += "</tr></thead>\n<tbody>\n";
  for (const Row& row : rows) {
    out += row.style.empty() ? "<tr>" : fmt::format("<tr class=\"{}\">", row.style);
    for (size_t i = 0; i < columns.size(); ++i) {
      if (!shown[i]) continue;
      const char* const cell = row.cells[i].empty() ? "–" : row.cells[i].c_str();
      out += i == 0 ? fmt::format("<th scope=\"row\"{}>{}</th>", number(i), cell)
                    : fmt::format("<td{}>{}</td>", number(i), cell);
    }
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

}  // namespace tq
