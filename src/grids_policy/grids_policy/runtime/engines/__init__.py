"""The engines that compute a bundle's graphs: one small file each behind one interface, and the table of them."""
