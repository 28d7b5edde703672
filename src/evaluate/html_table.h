// Tables of an HTML page.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace tq {

struct HtmlTable {
  struct Column {
    std::string name;
    bool number = true;  // to the right
  };
  struct Row {
    std::vector<std::string> cells;  // markup; empty: no figure
    std::string style;               // class of evaluate/report_style.h, or empty
  };
  std::vector<Column> columns;
  std::vector<Row> rows = {};  // of as many cells as there are columns; the first heads the row

  void Add(std::vector<std::string> cells, std::string style = "") {
    rows.push_back({std::move(cells), std::move(style)});
  }
  // In a box that scrolls where it is too wide, and with `tall` where it is too long. Columns
  // without a figure are left out; single figures that are absent show as a dash.
  std::string Markup(bool tall = false) const;
};

}  // namespace tq
