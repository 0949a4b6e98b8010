// The chat and search page.
import "./style.css";
