import '/weir.js';
